"""Which classes are common and which are rare, by their numbers of training images."""

from collections.abc import Sequence

# Liu et al. 2019 (OLTR): many-shot > 100, medium-shot 20 to 100, few-shot < 20 training images
_FIELD_MANY, _FIELD_FEW = 100, 20
_FIELD_CLASSES = 100
# The commonest class needs this many times the images of the rarest, for some to be rare.
_LEAST_RATIO = 1.5


def shot_groups(train_counts: Sequence[int | None]) -> dict[str, list[int]]:
    """Return the class numbers that are many, medium and few; {} where no class is rare.

    That is where the commonest class has less than 1.5 times the images of the rarest:
    MNIST's classes (1.24 times) differ by chance, and nobody asks about its rare ones.
    {} too where a count is not known.
    From 100 classes on by the field's bounds (> 100, 20 to 100, < 20 training images); below by
    thirds of the classes, where classes with equal counts stay together.
    """
    known = [count for count in train_counts if count is not None]
    if len(known) < len(train_counts) or not _any_is_rare(known):
        return {}
    many_from, few_to = _bounds(known)
    groups: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    for number, count in enumerate(known):
        name = "many" if count >= many_from else "few" if count <= few_to else "medium"
        groups[name].append(number)
    return groups


def by_train_count(train_counts: Sequence[int | None]) -> list[int]:
    """Return the class numbers in order of rarity, the commonest first, unknown counts last."""
    return sorted(range(len(train_counts)), key=lambda number: -(train_counts[number] or 0))


def _any_is_rare(counts: Sequence[int]) -> bool:
    """Return whether the rarest class has clearly fewer images than the commonest."""
    most, fewest = max(counts, default=0), min(counts, default=0)
    return most > fewest and most >= _LEAST_RATIO * fewest


def _bounds(train_counts: Sequence[int]) -> tuple[float, float]:
    """Return the least count of a `many` class and the greatest count of a `few` class."""
    if len(train_counts) >= _FIELD_CLASSES:
        return _FIELD_MANY + 1, _FIELD_FEW - 1
    ordered = sorted(train_counts)
    third = max(1, len(ordered) // 3)
    many_from, few_to = ordered[-third], ordered[third - 1]
    if many_from > few_to:
        return many_from, few_to
    # One count fills the middle and both borders: it belongs to the side that has no other count.
    if few_to == ordered[0]:
        return few_to + 1, few_to
    if many_from == ordered[-1]:
        return many_from, many_from - 1
    return many_from + 1, few_to - 1
