"""Which group the others are held against, and what the differences say in words."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmsm_cli.comparison.intervals import Difference
from lmsm_cli.comparison.records import Group
from lmsm_cli.comparison.samples import setting_of, usual_setting
from lmsm_cli.errors import LmsmError, did_you_mean
from lmsm_cli.metrics import MAIN_DIFFERENCES
from lmsm_cli.runs.record import OUTSIDE

_USUAL = "softmax"
# What a method is made of, beside its loss.
_OF_A_METHOD = (
    *("sampling", "reweight", "reweight_beta", "rebalance_from", "class_weights", "class_margins"),
    *("label_smoothing", "head_weight_decay", "post_hoc"),
)
# That a loss takes no bias is no choice.
_OF_A_HEAD = ("loss", "head_bias", *_OF_A_METHOD)


def baseline_of(
    groups: Sequence[Group], name: str | None, recipes: Sequence[Mapping[str, Any]]
) -> tuple[list[int | None], list[str]]:
    """Return the number of each group's baseline, None where it has none, and notes on that.

    A baseline has the same test images. Of several with the name the one counts that differs in
    nothing else; where none or several do, the only one of that name with the same training images
    (as many of each class, where they are not known). Heads that were made on one net alone are
    held against the plain one of them, for balanced draws or smoothed labels are part of a method;
    where there is none, against the run that trained such a net whole. A group with the name is
    its own baseline, unless it is another method beside the plain one, and that of nothing else.

    Args:
        groups: Those to compare.
        name: A label, a loss or its name; softmax for None.
        recipes: The choices of each group.

    Raises:
        LmsmError: There is no group of that name.
    """
    named = _named(groups, name or _USUAL)
    if not named and name is not None:
        known = {text for g in groups for text in (g.label, _loss(g), _loss_name(g))}
        raise LmsmError(
            f"--baseline: no group of runs is called {name!r}{did_you_mean(name, known)}"
        )
    chosen = [
        _plain_head(number, groups, named, recipes)
        if _is_head(recipes[number])
        else _nearest(group, groups, named)
        for number, group in enumerate(groups)
    ]
    for number in named:
        is_method = _is_head(recipes[number]) or not _is_plain(recipes[number])
        if is_method and chosen.count(number) == 1 and chosen[number] == number:
            plain = _plain_run(number, groups, named, recipes)
            chosen[number] = number if plain is None else plain
    if named:
        return chosen, [
            f"no baseline for {group.label}: "
            f"no single {name or _USUAL} has the same images and other choices"
            for group, number in zip(groups, chosen, strict=True)
            if number is None
        ]
    if len(groups) > 1 and any("loss" in group.differs for group in groups):
        return chosen, [
            f"no run with {_USUAL} to hold the others against: name one with --baseline"
        ]
    return chosen, []


def _named(groups: Sequence[Group], name: str) -> list[int]:
    """Return the groups with that label or loss, or else those of a loss of that name."""
    exactly = [number for number, group in enumerate(groups) if name in (group.label, _loss(group))]
    return exactly or [number for number, group in enumerate(groups) if _loss_name(group) == name]


def _loss(group: Group) -> str:
    return str(group.differs.get("loss", ""))


def _loss_name(group: Group) -> str:
    return _loss(group).partition(":")[0]


def _nearest(group: Group, groups: Sequence[Group], named: Sequence[int]) -> int | None:
    """Return which of the named groups this one is held against."""
    peers = _own_before_outside(groups, [n for n in named if groups[n].test_set == group.test_set])
    if any(groups[number] is group for number in peers):
        return next(number for number in peers if groups[number] is group)
    for same in (_same_choices, _same_training_images):
        alike = [number for number in peers if same(groups[number], group)]
        if len(alike) == 1:
            return alike[0]
    return None


def _is_head(recipe: Mapping[str, Any]) -> bool:
    """Return whether the last layer alone was trained, or corrected, on a net that stays."""
    return recipe.get("freeze") == "features"


def _plain_head(
    number: int,
    groups: Sequence[Group],
    named: Sequence[int],
    recipes: Sequence[Mapping[str, Any]],
) -> int | None:
    """Return which of the named groups a head is held against that was trained on its net alone."""
    own = recipes[number]
    peers = [
        other
        for other in named
        if groups[other].test_set == groups[number].test_set and _is_plain(recipes[other])
    ]

    def with_same(keys: Collection[str]) -> list[int]:
        rest = {*keys} - {*_OF_A_HEAD}
        return [n for n in peers if all(recipes[n].get(key) == own.get(key) for key in rest)]

    plain = with_same(own.keys())
    if len(plain) == 1:
        return plain[0]
    whole = _plain_run(number, groups, named, recipes)
    if whole is not None:
        return whole
    # a correction takes no rate; but another weight decay makes a head another method
    plain = with_same(setting_of(own).keys() | {"weight_decay"})
    return plain[0] if len(plain) == 1 else _nearest(groups[number], groups, named)


def _plain_run(
    number: int,
    groups: Sequence[Group],
    named: Sequence[int],
    recipes: Sequence[Mapping[str, Any]],
) -> int | None:
    """Return the one named group whose whole net was trained, by no method beside its loss.

    It has the net of a head, or else all the choices of a whole training but for its method.
    """
    own = recipes[number]

    def alike(recipe: Mapping[str, Any]) -> bool:
        keys = own.keys() | recipe.keys()
        keys = {"model", "neck"} if _is_head(own) else keys - {*_OF_A_METHOD}
        return all(recipe.get(key) == own.get(key) for key in keys)

    found = [
        other
        for other in named
        if other != number
        and groups[other].test_set == groups[number].test_set
        and recipes[other].get("freeze") is None
        and _is_plain(recipes[other])
        and alike(recipes[other])
        and _same_training_images(groups[other], groups[number])
    ]
    return found[0] if len(found) == 1 else None


def _is_plain(recipe: Mapping[str, Any]) -> bool:
    """Return whether a training has no method beside its loss."""
    usual = usual_setting()
    return all(recipe.get(key, usual[key]) == usual[key] for key in _OF_A_METHOD)


def _own_before_outside(groups: Sequence[Group], peers: Sequence[int]) -> list[int]:
    """Return the groups that lmsm trained, or all where it trained none of them.

    So one softmax is the baseline, and that of another program is held against it.
    """
    own = [number for number in peers if groups[number].differs.get("source") != OUTSIDE]
    return own or list(peers)


def _same_choices(one: Group, other: Group) -> bool:
    """Return whether nothing but the loss differs, as far as the training images are known."""
    return _other_choices(one) == _other_choices(other) and _same_counts(one, other)


def _other_choices(group: Group) -> dict[str, str]:
    return {key: str(value) for key, value in group.differs.items() if key != "loss"}


def _same_training_images(one: Group, other: Group) -> bool:
    """Return whether the training images are the same, as far as both are known."""
    digests = [(group.images or {}).get("training") for group in (one, other)]
    is_outside = OUTSIDE in (one.differs.get("source"), other.differs.get("source"))
    return (is_outside or digests[0] == digests[1]) and _same_counts(one, other)


def _same_counts(one: Group, other: Group) -> bool:
    """Return whether each class has as many training images, as far as these are known."""
    counts = [[row.train_count for row in group.per_class] for group in (one, other)]
    return all(None in pair or pair[0] == pair[1] for pair in zip(*counts, strict=True))


def verdict_in_words(differences: Mapping[str, Difference | None]) -> str:
    """Return the verdicts in words: `better on rare classes, worse overall`."""
    found = {
        metric.verdict_on: one
        for metric in MAIN_DIFFERENCES
        if metric.verdict_on and (one := differences.get(metric.key))
    }
    if not found:
        return ""
    verdicts = {one.verdict for one in found.values()}
    if len(verdicts) == 1:
        return verdicts.pop()
    return ", ".join(f"{one.verdict} {place}" for place, one in found.items())
