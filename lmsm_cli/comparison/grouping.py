"""Which runs belong together, and what they give on average: pure data, no drawing.

Runs that differ in nothing but the seed (and where they ran) make one group, scored as mean and
standard deviation, and held against a baseline.
"""

import statistics
import zlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from lmsm_cli.comparison.conclusion import conclusion_of
from lmsm_cli.comparison.data_sets import (
    PARTS,
    Images,
    choices_hide_it,
    images_of,
    named_images,
    notes_on_damage,
    notes_on_images,
)
from lmsm_cli.comparison.differences import Question, held_against
from lmsm_cli.comparison.pooling import pooled
from lmsm_cli.comparison.records import ClassStatistic, Comparison, Group, Statistic, Unscored
from lmsm_cli.comparison.same_images import matched
from lmsm_cli.comparison.samples import (
    SPLIT_KEYS,
    Sample,
    key_of,
    num_images,
    samples_of,
    shared_setting,
    test_images,
    usual_setting,
    values,
)
from lmsm_cli.comparison.unfinished import notes_on_unfinished
from lmsm_cli.config import Config
from lmsm_cli.errors import check_choice, counted, listed
from lmsm_cli.metrics import METRICS, Scores
from lmsm_cli.runs.record import OUTSIDE, RunRecord

# More of them are told by a checksum.
_MOST_COUNTS = 10


def compare_runs(
    records: Sequence[RunRecord],
    *,
    by: Sequence[str] = (),
    baseline: str | None = None,
    sort: str | None = None,
    question: Question | None = None,
) -> Comparison:
    """Return the runs grouped over seeds, with mean, standard deviation and number of each score.

    Of runs that repeat one configuration with one seed only the newest counts (the last by folder
    name, which starts with the time): a repetition is no further sample. Runs without scores or
    config, and those repetitions, are listed as unscored.

    Args:
        records: The runs.
        by: The only config keys that runs of a group must share, beside SPLIT_KEYS and the images.
        baseline: A label, a loss or its name, of the groups that the others are held against;
            softmax by default, where there is one.
        sort: The key of a metric, to put the best first.
        question: What the intervals allow for; seeds and test images by default.

    Raises:
        LmsmError: There is no such key, baseline or metric.
        DataError: Results of another program do not fit those of other runs.
    """
    for key in by:
        check_choice("--by", key, Config.model_fields)
    if sort:
        check_choice("--sort", sort, METRICS)
    records, unscored, taken = comparable(records)
    unscored += [
        Unscored(str(record.path), record.problem or "no scores")
        for record in records
        if record.scores is None or record.config is None
    ]
    sampled, repeated = _sampled(records, by)
    unscored += repeated
    differing, groups = _groups(sampled, by)
    question = question or Question()
    groups, unheld = held_against(groups, sampled, baseline, question)
    known = [sample.record for samples in sampled for sample in samples]
    notes = [
        *_split_apart(groups, differing),
        *_averaged(sampled, by),
        *_on_a_part(known),
        *notes_on_unfinished(known),
        *notes_on_images(known, usual_setting()),
        *taken,
        *_absent_classes(groups),
        *unheld,
        *notes_on_damage(known),
    ]
    order = sorted(groups, key=lambda group: (group.test_set, _rank(group, sort)))
    tests = range(len({group.test_set for group in groups}))
    peers = [[group for group in order if group.test_set == test] for test in tests]
    return Comparison(
        differing,
        tuple(order),
        tuple(unscored),
        tuple(notes),
        tuple(conclusion_of(some, question.size) for some in peers),
        question.size,
        _nets(known),
    )


def _nets(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Return the nets of some runs with their sizes, in the order of the runs; old runs tell none.

    Its last layer has more or fewer weights by the loss and the number of classes.
    """
    found: dict[tuple[str, int], set[int]] = {}
    for record in records:
        net, name = record.scores and record.scores.net, (record.config or {}).get("model")
        if net and name:
            found.setdefault((name, net.features), set()).add(net.weights)
    return tuple(
        f"{name}, {' to '.join(f'{one:,}' for one in sorted({min(sizes), max(sizes)}))} weights, "
        f"{counted(features, 'feature')} for the last layer"
        for (name, features), sizes in found.items()
    )


def comparable(
    records: Sequence[RunRecord],
) -> tuple[list[RunRecord], list[Unscored], list[str]]:
    """Return the runs as they are compared, those that are left out so, and notes on both.

    Folds are pooled, and runs on the same images have these and their classes alike. Raises
    DataError as `matched`.
    """
    whole, left_out, notes = pooled(records)
    found, taken = matched(whole)
    return found, left_out, [*notes, *taken]


def _sampled(
    records: Sequence[RunRecord], by: Sequence[str]
) -> tuple[list[list[Sample]], list[Unscored]]:
    """Return the samples of each group, and the runs that newer ones repeat."""
    members: dict[str, dict[Hashable, Sample]] = {}
    repeated = []
    for sample in samples_of(records, by):
        runs = members.setdefault(sample.key, {})
        if sample.place in runs:
            reason = f"its configuration and seed are repeated by the newer {sample.record.name}"
            repeated.append(Unscored(str(runs[sample.place].record.path), reason))
        runs[sample.place] = sample
    return [list(runs.values()) for runs in members.values()], repeated


def _split_apart(groups: Sequence[Group], differing: Sequence[str]) -> list[str]:
    """Say which fields keep runs from being averaged."""
    kinds, counted = (*SPLIT_KEYS, "images"), ("_images", "class_counts")
    fields = [key for key in differing if key in kinds or key.endswith(counted)]
    if not fields:
        return []
    values = {key: dict.fromkeys(str(group.differs[key]) for group in groups) for key in fields}
    note = "not averaged over runs that are unlike in "
    note += "; ".join(f"{key}: {', '.join(found)}" for key, found in values.items())
    sets = len({group.test_set for group in groups})
    if sets > 1:
        note += f"; they have {sets} sets of test images, and * is for the rows on one of them"
    return [note]


def _on_a_part(records: Iterable[RunRecord]) -> list[str]:
    """Say of how many test images a class the scores are, where the runs left some out."""
    found = {record.scores.test_images_per_class for record in records if record.scores}
    most = [f"{number:,}" for number in sorted(one for one in found if one)]
    if not most:
        return []
    some = "all scores are" if None not in found and len(most) == 1 else "some scores are"
    return [f"{some} of a fixed part of the test images, at most {' or '.join(most)} of each class"]


def _absent_classes(groups: Iterable[Group]) -> list[str]:
    """Say once over which classes the means run where some have no test image."""
    rows = (one for group in groups for one in group.per_class)
    absent = list(dict.fromkeys(one.name for one in rows if not one.test_count))
    if not absent:
        return []
    verb = "has" if len(absent) == 1 else "have"
    return [
        f"{listed(absent)} {verb} no test image: "
        "balanced accuracy and macro F1 are over the other classes"
    ]


def _averaged(members: Iterable[Sequence[Sample]], by: Sequence[str]) -> list[str]:
    """Say which other choices the means of `by` run over."""
    found: dict[str, dict[str, None]] = {}
    for samples in members if by else ():
        settings = [sample.setting for sample in samples]
        for key in _differing(settings, ("seed",)):
            if key not in ("seed", *by):
                found.setdefault(key, {}).update((str(one.get(key)), None) for one in settings)
    return [f"averaged over {key}: {', '.join(values)}" for key, values in found.items()]


def _rank(group: Group, metric: str | None) -> float:
    """Return what sorts the best group first, one without the score last; or the baseline first."""
    if metric is None:
        return 0.0 if group.is_baseline else 1.0
    value = group.metrics[metric]
    if value is None:
        return float("inf")
    return -value.mean if METRICS[metric].higher_is_better else value.mean


def _groups(
    members: Sequence[Sequence[Sample]], by: Sequence[str]
) -> tuple[tuple[str, ...], list[Group]]:
    """Return the keys that tell the groups apart, and the groups."""
    firsts = [samples[0] for samples in members]
    test_sets = list(dict.fromkeys(map(test_images, firsts)))
    images = [images_of(one.record) for one in firsts]
    records = [one.record for samples in members for one in samples]
    differing, settings = _settings(firsts, images, records, by)
    groups = []
    for samples, setting, known in zip(members, settings, images, strict=True):
        differs = {key: setting.get(key) for key in differing}
        groups.append(
            Group(
                label=_label({key: differs[key] for key in differing if key in setting}, by),
                differs=differs,
                test_set=test_sets.index(test_images(samples[0])),
                seeds=tuple(sample.seed for sample in samples),
                runs=tuple(str(sample.record.path) for sample in samples),
                metrics={key: _statistic(values(samples, key).values()) for key in METRICS},
                per_class=_per_class([sample.scores for sample in samples]),
                folds=_folds(samples),
                images=dict(zip(PARTS, known, strict=True)) if known else None,
            )
        )
    return differing, groups


def _folds(samples: Sequence[Sample]) -> tuple[tuple[str, ...], ...]:
    found = [tuple(map(str, sample.record.folds)) for sample in samples]
    return tuple(found) if any(found) else ()


def _settings(
    firsts: Sequence[Sample],
    images: Sequence[Images | None],
    records: Sequence[RunRecord],
    by: Sequence[str],
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Return the keys in which groups differ, and the settings, with images where these do.

    `firsts` and `images` are of the first run of each group, `records` those of all.
    """
    settings = [dict(shared_setting(one.record, one.setting, by)) for one in firsts]
    if choices_hide_it([one.record for one in firsts], usual_setting()):
        names = named_images(records)
        settings = [
            setting | {"images": names[one]} for setting, one in zip(settings, images, strict=True)
        ]
    differing = _differing(settings, by)
    distinct = {key_of([setting.get(key) for key in differing]) for setting in settings}
    if len(distinct) < len(settings):
        settings = _beside(settings, [num_images(one.scores) for one in firsts])
        differing = _differing(settings, by)
    distinct = {key_of([setting.get(key) for key in differing]) for setting in settings}
    if len(distinct) < len(settings):  # other programs draw anew for each seed, perhaps
        counts = [{"class_counts": _counts_in_words(one.scores)} for one in firsts]
        settings = _beside(settings, counts)
        differing = _differing(settings, by)
    return differing, settings


def _beside(
    settings: Sequence[dict[str, Any]], facts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return settings with facts of their runs, none in the place of a choice of the same name."""
    taken = {key for setting in settings for key in setting}

    def free(key: str) -> str:
        return free(f"counted_{key}") if key in taken else key

    return [
        setting | {free(key): value for key, value in known.items()}
        for setting, known in zip(settings, facts, strict=True)
    ]


def _counts_in_words(scores: Scores) -> str | None:
    """Return the training images of each class in a word; None where they are not known."""
    known = [f"{one.train_count}" for one in scores.per_class if one.train_count is not None]
    if len(known) > _MOST_COUNTS:  # equal only where all are, as the short form must be
        return f"{zlib.crc32(' '.join(known).encode()):08x}"
    return "/".join(known) or None


def _differing(settings: Sequence[Mapping[str, Any]], by: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of `by`, or else the loss, and all others in which the settings differ.

    A setting of another program's run without a key that lmsm's runs have does not differ in it;
    where a run of another program has it, those others that lack it do.
    """
    always = list(by) or ["loss"]
    keys = dict.fromkeys([*always, *(key for setting in settings for key in setting)])
    outside = [one for one in settings if one.get("source") == OUTSIDE]

    def is_told_by(key: str) -> bool:
        found = {key_of(one[key]) for one in settings if key in one}
        return len(found) > 1 or 0 < sum(key in one for one in outside) < len(outside)

    return tuple(key for key in keys if key in always or is_told_by(key))


def _label(differs: Mapping[str, Any], by: Sequence[str]) -> str:
    """Return what tells a group apart, without defaults: `lsoftmax:margin=4 neck=relu`."""
    usual = usual_setting()
    pieces = [
        str(value) if key == "loss" else f"{key}={value}"
        for key, value in differs.items()
        if key == "loss" or key in by or key_of(value) != key_of(usual.get(key))
    ]
    return " ".join(pieces)


def _per_class(scores: Sequence[Scores]) -> tuple[ClassStatistic, ...]:
    found = []
    for rows in zip(*(one.per_class for one in scores), strict=True):
        accuracy = _statistic(row.accuracy for row in rows)
        name, train_count, test_count = rows[0].name, rows[0].train_count, rows[0].test_count
        found.append(ClassStatistic(name, train_count, test_count, accuracy))
    return tuple(found)


def _statistic(values: Iterable[float | None]) -> Statistic | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    sd = statistics.stdev(known) if len(known) > 1 else None
    return Statistic(statistics.fmean(known), sd, len(known))
