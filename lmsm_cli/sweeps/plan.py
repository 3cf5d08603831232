"""The runs of a sweep: made from choices and seeds, and found again in their run folders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from lmsm_cli.config import DATA_KEYS, LIST_KEYS, Config, dump
from lmsm_cli.config.defaults import Facts
from lmsm_cli.config.resolve import Layer, as_typed, resolve
from lmsm_cli.data import sources
from lmsm_cli.data.facts import remembered
from lmsm_cli.data.identity import DIVIDED_ANEW, ImagesRecord, are_same_images
from lmsm_cli.data.splits import check_apart_from_listed, folder_options, load_data
from lmsm_cli.errors import CheckpointError, DiskError, LmsmError, counted, few
from lmsm_cli.losses.registry import check_loss, has_usual_margin, margin_by_rarity
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import read_images_record
from lmsm_cli.runs.record import RunRecord, config_hash_of, damage_of_environment, read_run
from lmsm_cli.runs.start import facts_with_start
from lmsm_cli.runs.start_images import check_unseen, known_of_start, several_unknown
from lmsm_cli.runtime.display import SILENT, Display, OncePerPlan
from lmsm_cli.sweeps.grid import MOST_RUNS, TooManyRunsError, label
from lmsm_cli.training.prepare import check_config
from lmsm_cli.training.resume import config_hash

State = Literal["completed", "interrupted", "running", "failed", "missing"]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan, and in words what tells it from the others."""

    config: Config
    label: str
    notes: tuple[str, ...] = ()
    """What a user should know of its defaults."""

    @cached_property
    def config_hash(self) -> str:
        """Hash of what was requested, which its run folder records."""
        return config_hash(self.config)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """What no other run of the plan shares: its hash, and where a user's images are."""
        if self.config.dataset not in sources.OWN:
            return (self.config_hash,)
        places = dump(self.config.model_copy(update={"data_dir": self.config.data_dir.resolve()}))
        return (self.config_hash, *(str(places[key]) for key in ("data_dir", *LIST_KEYS)))

    @cached_property
    def other_hashes(self) -> tuple[str, ...]:
        """The hashes that older versions recorded: without a trace of a changed default, of the
        loss as it was written, and of the data folder's path, not of its images."""
        older = partial(config_hash, self.config, knows_tails=False)
        as_written = partial(older, knows_spellings=False)
        return older(), as_written(), as_written(knows_images=False)


@dataclass(frozen=True)
class RunStatus:
    """Where a run of the plan stands, and in which folder, if in any."""

    run: PlannedRun
    state: State
    record: RunRecord | None

    @property
    def seconds(self) -> float | None:
        """What its training took; None while it is not completed."""
        scores = self.record.scores if self.record else None
        if self.state != "completed" or scores is None or scores.training is None:
            return None
        return scores.training.seconds


def unbegun(found: Iterable[RunStatus]) -> list[Config]:
    """Return the configs of the runs that are to begin, for the first time or again."""
    return [one.run.config for one in found if one.state in ("missing", "failed")]


def build_plan(
    layers: Sequence[Layer], combinations: Sequence[Mapping[str, str]], seeds: Sequence[int] | None
) -> list[PlannedRun]:
    """Return the runs of every combination of choices, with every seed (None: the config's own).

    Where a config names folds and none of them, there is a run for each.

    Raises LmsmError that lists every mistake with the combinations that have it, and names two runs
    that would be the same; DiskError where nothing can be written in the folder for the runs.
    """
    facts = remembered(facts_with_start)
    plan: list[PlannedRun] = []
    problems: dict[str, list[str]] = {}
    for choices in combinations:
        name = label(choices)
        try:
            room = MOST_RUNS - len(plan)
            runs = _with_seeds(layers, choices, seeds or (None,), facts, room)
            check_config(runs[0].config)
        except (DiskError, TooManyRunsError):
            raise
        except LmsmError as error:
            for line in str(error).split("\n"):
                problems.setdefault(line, []).append(name)
        else:
            plan += runs
    if problems:
        raise LmsmError(
            "\n".join(
                _with_places(line, names, len(combinations)) for line, names in problems.items()
            )
        )
    _check_distinct(plan)
    return plan


def plan_run(
    layers: Sequence[Layer],
    choices: Mapping[str, str],
    seed: int | None,
    fold: int | None = None,
    facts: Callable[[Config], Facts | None] = facts_with_start,
) -> PlannedRun:
    """Return one run of given choices, with a seed and a fold or the config's own.

    Raises LmsmError.
    """
    varied = Layer(as_typed(choices), {key: f"{key} of the sweep" for key in choices})
    given = {key: one for key, one in (("seed", seed), ("fold", fold)) if one is not None}
    resolved = resolve([*layers, varied, Layer.of_flags(given)], check_loss, facts_of=facts)
    text = label({**choices, **{key: str(one) for key, one in given.items()}})
    return PlannedRun(resolved.config, text or "as given", resolved.notes)


def _with_seeds(
    layers: Sequence[Layer],
    choices: Mapping[str, str],
    seeds: Sequence[int | None],
    facts: Callable[[Config], Facts | None],
    room: int,
) -> list[PlannedRun]:
    """Return the runs of given choices: one for each seed, or for each fold of each seed.

    Raises LmsmError, also where they are more than there is room for.
    """
    first = plan_run(layers, choices, seeds[0], facts=facts)
    number = first.config.folds if first.config.fold is None else None
    if len(seeds) * (number or 1) > room:
        raise TooManyRunsError(
            f"that makes more than {MOST_RUNS:,} runs, of which each fold counts as one; a sweep "
            "has at most as many"
        )
    if number is None:
        return [first, *(plan_run(layers, choices, seed, facts=facts) for seed in seeds[1:])]
    places = [(seed, fold) for seed in seeds for fold in range(number)]
    return [plan_run(layers, choices, seed, fold, facts) for seed, fold in places]


def _with_places(line: str, names: Sequence[str], num_combinations: int) -> str:
    """Return a mistake with the combinations that have it, unless all do."""
    if len(names) == num_combinations:
        return line
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'; '.join(names[:3])}{more}: {line}"


def _check_distinct(plan: Sequence[PlannedRun]) -> None:
    first: dict[tuple[str, ...], PlannedRun] = {}
    for run in plan:
        same = first.setdefault(run.identity, run)
        if same is not run:
            raise LmsmError(
                f"{same.label!r} and {run.label!r} are the same run: take one of them out"
            )


@dataclass(frozen=True)
class RunIndex:
    """Index of run folders by the hash of the requested config. Reads each environment.json once.

    A folder is a run of the plan only if its images are those that the run would have now.
    """

    out: Path
    display: Display = SILENT
    said: set[str] = field(default_factory=set)
    """What was warned of the data of the runs."""
    _names: dict[str, list[str]] = field(default_factory=dict)
    """The names of the folders by that hash."""
    _seen: set[str] = field(default_factory=set)
    _images: dict[str, ImagesRecord | None] = field(default_factory=dict)
    """The images that a config gives now, by its DATA_KEYS as JSON."""
    _warned_of: set[Path] = field(default_factory=set)
    """The data folders that were looked into."""
    _passed_over: dict[str, str] = field(default_factory=dict)
    """Why folders, by their names, were passed over for their images."""

    def refresh(self) -> None:
        """Read the folders that are new; warn of one that does not tell what was asked for."""
        names = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
        for name in sorted(names - self._seen):
            if requested := config_hash_of(self.out / name):
                self._seen.add(name)
                self._names.setdefault(requested, []).append(name)
            elif damage := damage_of_environment(self.out / name):
                self._seen.add(name)
                self.display.warning(
                    f"{self.out / name}: {damage}; so it is not known whether it is one of these "
                    "runs, and it is taken for none"
                )

    def status(self, plan: Sequence[PlannedRun]) -> list[RunStatus]:
        """Return where all runs of a plan stand; warn of folders whose images are others."""
        self.refresh()
        before = set(self._passed_over)
        found = [self._status_of(run) for run in plan]
        taken = {one.record.path.name for one in found if one.record}  # by another data set
        others = sorted(self._passed_over.keys() - before - taken)
        for why in dict.fromkeys(self._passed_over[name] for name in others):
            names = [name for name in others if self._passed_over[name] == why]
            self.display.warning(
                f"{self.out}: {counted(len(names), 'run')} with these choices left out, {why}: "
                f"{few(names, 3)}; `lmsm compare` shows them in rows apart"
            )
        return found

    def status_of(self, run: PlannedRun) -> RunStatus:
        """Return where a planned run stands: as far as its best folder has come."""
        self.refresh()
        return self._status_of(run)

    def _status_of(self, run: PlannedRun) -> RunStatus:
        best = max(self._runs(run), key=_rank, default=None)
        return RunStatus(run, _state(best) if best else "missing", best)

    def _runs(self, run: PlannedRun) -> list[RunRecord]:
        """Return the folders of a planned run, oldest first; their metrics may be left out.

        A run that was made longer since, or whose config cannot be read, is no longer that run.
        """
        names = {
            name
            for requested in dict.fromkeys((run.config_hash, *run.other_hashes))
            for name in self._names.get(requested, ())
        }
        records = [read_run(self.out / name, with_metrics=False) for name in sorted(names)]
        return [
            record
            for record in records
            if (record.config or {}).get("epochs") == run.config.epochs
            and not _is_of_older_default(record, run.config)
            and self._has_images_of(record, run.config)
        ]

    def _has_images_of(self, record: RunRecord, config: Config) -> bool:
        """Return whether a run has the images that a config gives now.

        Yes too if it recorded none, being of an older version, or if the data is not here.
        """
        try:
            recorded = read_images_record(record.path)
        except CheckpointError as error:
            self.display.warning(str(error))
            return False
        if recorded is None:
            return True
        now = self._images_now(config)
        if now is None or now.split_digests == recorded.split_digests:
            return True
        self._passed_over[record.path.name] = (
            f"made before the images were divided as now ({DIVIDED_ANEW})"
            if are_same_images(now, recorded)
            else "made on other images than those there are now"
        )
        return False

    def check_new(self, configs: Iterable[Config]) -> None:
        """Check runs that are to begin by the images of all of them, before the first trains.

        Raises:
            LmsmError: They would be written among the images of a list.
            DataError: One would be tested on images that what it starts from was trained on.
        """
        keys = {*DATA_KEYS, "out", "pretrained", "freeze", "post_hoc"}
        distinct = {config.model_dump_json(include=keys): config for config in configs}
        display = OncePerPlan(self.display, self.said)
        not_known: dict[str, str] = {}
        for config in distinct.values():
            start, unknown = known_of_start(config)
            if unknown:
                not_known[str(config.pretrained)] = unknown
            is_asked = start is not None or config.dataset == "list"
            record = self._images_now(config) if is_asked else None
            if record is None:
                continue
            check_apart_from_listed("--out", config.out, config, record)
            if start is not None:
                check_unseen(record, start, config, display)
        if len(not_known) > 1:  # one sentence, and each run writes its own into its log alone
            display.warning(several_unknown(list(not_known)))
            self.said.update(not_known.values())
        for unknown in not_known.values():
            display.warning(unknown)

    def _images_now(self, config: Config) -> ImagesRecord | None:
        """Return a config's images, None where they are not on this disk."""
        choices = config.model_dump_json(include=set(DATA_KEYS))
        if choices not in self._images:
            options = folder_options(config)
            where = sources.find_dataset(config.dataset, config.data_dir, options)
            # what there is to say of the data is said once, not for each fold and seed
            is_new = config.data_dir not in self._warned_of
            self._warned_of.add(config.data_dir)
            display = OncePerPlan(self.display, self.said) if is_new else SILENT
            self._images[choices] = load_data(config, display).record() if where else None
        return self._images[choices]


def _is_of_older_default(record: RunRecord, config: Config) -> bool:
    """Return whether a run's lsoftmax took the default of long tails from before 0.2."""
    resolved = str((record.config or {}).get("loss"))
    return has_usual_margin(config.loss) and margin_by_rarity(resolved) == "auto"


def _rank(record: RunRecord) -> tuple[int, str]:
    return ("failed", "interrupted", "running", "completed").index(_state(record)), record.path.name


def _state(record: RunRecord) -> State:
    """Return the state of a folder; completed without scores counts as interrupted."""
    if record.state == "completed" and record.scores is not None:
        return "completed"
    if record.state == "failed":
        return "failed"
    return "running" if _is_locked(record.path) else "interrupted"


def _is_locked(path: Path) -> bool:
    try:
        with RunFolder(path).locked(patience=0):
            return False
    except DiskError:
        raise
    except LmsmError:
        return True
