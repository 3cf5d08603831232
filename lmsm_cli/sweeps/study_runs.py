"""The trainings that a study is made of, as planned runs."""

from collections.abc import Mapping, Sequence
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


def whole_choices(candidate: Candidate | None) -> Mapping[str, str] | None:
    """Return what an arm's whole trainings choose other than softmax's; None where it has none.

    Softmax is no candidate: None stands for it.
    """
    return {} if candidate is None else candidate.whole


def planned(values: Mapping[str, Any], label: str) -> PlannedRun:
    """Return the training with these choices."""
    return PlannedRun(resolve([_layer(values)], check_loss).config, label)


def round_of(
    base: Mapping[str, Any], number: int, folds: int | None, choices: Mapping[str, Any], name: str
) -> list[PlannedRun]:
    """Return the trainings of a round, one for each fold, each with a seed of its own.

    Nets that begin alike err alike: as many tell less than their number says.

    Args:
        base: The choices of all trainings.
        number: Of the round, from 0; it divides the images in its own way.
        folds: How many parts that is; None where nothing is divided.
        choices: Those of the arm.
        name: The arm's.
    """
    drawn = {"folds": folds, "split_seed": number} if folds else {}
    plan = []
    for fold in range(folds or 1):
        seed = number * (folds or 1) + fold
        own = drawn | {"seed": seed, "fold": fold if folds else None} | dict(choices)
        plan.append(planned({**base, **own}, f"{name}, seed {seed}"))
    return plan


def heads_on(
    nets: Sequence[RunRecord], one: Candidate, base: Mapping[str, Any]
) -> list[PlannedRun]:
    """Return the runs of a last layer on nets of softmax.

    Args:
        nets: Finished runs.
        one: Says which last layer.
        base: The choices of all trainings.
    """
    # a matrix of features is too small to share among threads
    given = {key: base.get(key) for key in ("device", "out", *_PLACES)}
    given = {key: one for key, one in given.items() if one is not None} | {"threads": 1}
    layers = {record.path: [_layer(record.config or {})] for record in nets}
    return plan_second_stages(list(layers), [one.head], layers, _layer(given | dict(one.more)))


def _layer(values: Mapping[str, Any]) -> Layer:
    return Layer(values, dict.fromkeys(values, ORIGIN), is_recipe=True)
