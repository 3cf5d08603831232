"""The shares of the classes where a model is used: `uniform`, named, or counted in a folder.

Scores that are right for the shares of the training images become right for others by the
difference of the logarithms of the shares (Saerens et al. 2002, doi 10.1162/089976602753284446).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lmsm_cli.data.class_folders import list_class_folders
from lmsm_cli.errors import DataError, LmsmError, few, os_errors_as_data_errors

UNIFORM = "uniform"
# What is asked for: `uniform`, shares by class, or a folder of class folders.
RequestedPrior = str | Mapping[str, float] | Path
# Shares that a person rounded to three digits add up to 1 only so far.
_SUM_TOLERANCE = 0.005


def shares_of(prior: RequestedPrior, classes: Sequence[str]) -> dict[str, float]:
    """Return the share of each class, in the order of `classes`; they add up to 1.

    Raises LmsmError for shares that are not above 0 or do not add up to 1, and for classes that are
    missing or unknown, DataError for a folder where a class has no image.
    """
    if isinstance(prior, Path):
        return _counted(prior, classes)
    if isinstance(prior, str):
        return {name: 1 / len(classes) for name in classes}
    _check_names(prior, classes, "--prior")
    wrong = [f"{name} {share:g}" for name, share in prior.items() if not 0 < share <= 1]
    if wrong:
        raise LmsmError(f"--prior: a share lies above 0 and is at most 1, not {few(wrong)}")
    total = sum(prior.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise LmsmError(f"--prior: the shares add up to {total:.4g}; make them add up to 1")
    return {name: prior[name] / total for name in classes}


def _counted(folder: Path, classes: Sequence[str]) -> dict[str, float]:
    with os_errors_as_data_errors(folder):
        listing = list_class_folders(folder)
    counts = dict(zip(listing.classes, listing.counts(), strict=True))
    try:
        _check_names(counts, classes, f"--prior {folder}")
    except LmsmError as error:
        raise DataError(str(error)) from None
    total = sum(counts.values())
    return {name: counts[name] / total for name in classes}


def _check_names(given: Mapping[str, float], classes: Sequence[str], what: str) -> None:
    """Raise LmsmError where the classes are not the model's."""
    unknown = [name for name in given if name not in classes]
    missing = [name for name in classes if name not in given]
    if unknown:
        raise LmsmError(
            f"{what}: the model has no class {few(unknown)}; its classes are {few(list(classes))}"
        )
    if missing:
        raise LmsmError(
            f"{what}: no share of {few(missing)}; every class of the model needs one above 0"
        )
