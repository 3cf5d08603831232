"""The trainings that a study is made of, as planned runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.sweeps.candidates import Candidate
from lmsm_cli.sweeps.plan import PlannedRun
from lmsm_cli.sweeps.second_stage import plan_second_stages

ORIGIN = "lmsm study"
"""Where its choices come from, in messages."""
# Where the images are now, which a run may have had elsewhere.
_PLACES = ("data_dir", "image_list", "validation_list", "test_list")
# What trains the runs of a plan, or finds them.
_Runs = Callable[[Sequence[PlannedRun]], list[RunRecord]]


@dataclass(frozen=True)
class Trainings:
    """The trainings of softmax and of the candidates."""

    base: Mapping[str, Any]
    """The choices of all of them."""
    candidates: Mapping[str, Candidate]
    """By name; softmax is none."""
    has_test: bool
    """Whether the data has test images of its own, which no round touches."""

    def of_round(self, name: str, number: int, folds: int | None) -> list[PlannedRun]:
        """Return an arm's whole trainings of a round; nothing where it has none of its own.

        There is one for each fold, each with a seed of its own: nets that begin alike err alike, so
        as many tell less than their number says.

        Args:
            name: The arm's.
            number: Of the round, from 0; it divides the images in its own way.
            folds: How many parts that is; None where nothing is divided.
        """
        choices = self._whole_choices(name)
        if choices is None:
            return []
        drawn: dict[str, Any] = {"test_from": "training"} if self.has_test else {}
        drawn |= {"folds": folds, "split_seed": number} if folds else {}
        plan = []
        for fold in range(folds or 1):
            seed = number * (folds or 1) + fold
            own = drawn | {"seed": seed, "fold": fold if folds else None} | dict(choices)
            plan.append(_planned({**self.base, **own}, f"{name}, seed {seed}"))
        return plan

    def heads_on(self, nets: Sequence[RunRecord], one: Candidate) -> list[PlannedRun]:
        """Return the runs of a candidate as last layers on finished runs of softmax."""
        # a matrix of features is too small to share among threads
        given = {key: self.base.get(key) for key in ("device", "out", *_PLACES)}
        given = {key: one for key, one in given.items() if one is not None} | {"threads": 1}
        layers = {record.path: [_layer(record.config or {})] for record in nets}
        return plan_second_stages(list(layers), [one.head], layers, _layer(given | dict(one.more)))

    def net_on_all_images(self, name: str, seed: int) -> PlannedRun:
        """Return an arm's whole training on all training images; softmax's, where it has none."""
        own = {"seed": seed} | dict(self._whole_choices(name) or {})
        return _planned({**self.base, **own}, f"{name}, seed {seed}")

    def on_all_images(self, name: str, seed: int, nets: _Runs, heads: _Runs) -> list[RunRecord]:
        """Return an arm's run on all training images; nothing where `nets` gives none.

        Args:
            name: The arm's.
            seed: Of its net.
            nets: Trains or finds the net.
            heads: Does so with the last layer on it, where the arm is one.
        """
        found = nets([self.net_on_all_images(name, seed)])
        candidate = self.candidates.get(name)
        if found and candidate is not None and candidate.whole is None:
            return heads(self.heads_on(found, candidate))
        return found

    def _whole_choices(self, name: str) -> Mapping[str, str] | None:
        """Return what an arm's whole trainings choose other than softmax's; None: it has none."""
        candidate = self.candidates.get(name)
        return {} if candidate is None else candidate.whole


def _planned(values: Mapping[str, Any], label: str) -> PlannedRun:
    return PlannedRun(resolve([_layer(values)], check_loss).config, label)


def _layer(values: Mapping[str, Any]) -> Layer:
    return Layer(values, dict.fromkeys(values, ORIGIN), is_recipe=True)
