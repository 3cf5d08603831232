"""Which runs had the test images of other runs, image by image.

Two runs of lmsm tell it by the digests of their images. With a run of another program, ids on both
sides decide; lmsm's own images go by their digests, or by their file names or indices. Without ids
two runs are taken for the same images where all their labels are equal in order, which is said.
Each run then gets the images, the names of the classes and the order of the first run that had
them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.data.identity import Digests, ImagesRecord
from lmsm_cli.errors import DataError, listed
from lmsm_cli.runs.documents import Images, ScoresDocument
from lmsm_cli.runs.images import PREDICTIONS, Predictions
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.runs.results import digests_of, is_digest
from lmsm_cli.scoring import score

_MOST_NAMES = 3
_Order = NDArray[np.int64]


def matched(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Return the runs, those of other programs with the images that they share, and notes on that.

    Raises DataError where a program's classes are those of another run in another order, or are
    not as many for the same images.
    """
    found = _Matching([])
    turns = list(_in_turn(records))
    moved = {place: found.place(record) for place, record in turns}
    notes = [*found.notes(), *_on_training(turns)]
    return [moved.get(place, record) for place, record in enumerate(records)], notes


def _on_training(turns: Sequence[tuple[int, RunRecord]]) -> Iterator[str]:
    """Yield what is not known of the training of runs beside those of lmsm."""
    outside = [record for _, record in turns if record.is_outside]
    if not outside or len(outside) == len(turns):
        return
    yield f"{_named(outside)}: on which images they were trained is not known"
    uncounted = [
        record
        for record in outside
        if record.scores and any(row.train_count is None for row in record.scores.per_class)
    ]
    if uncounted:
        yield (
            f"{_named(uncounted)}: nor on how many of each class; differences on many, medium and "
            "few are over the classes that are so in the other runs"
        )


def _named(records: Iterable[RunRecord]) -> str:
    return listed([record.name for record in records], _MOST_NAMES)


def _in_turn(records: Sequence[RunRecord]) -> Iterator[tuple[int, RunRecord]]:
    """Yield the scored runs, those first that tell most of their images: lmsm's, with ids, named.

    Of equal ones, that with the most classes is first, since a class may be missing from answers.
    """
    scored = [
        (place, record)
        for place, record in enumerate(records)
        if record.scores is not None and record.scores.images is not None
    ]
    yield from sorted(scored, key=lambda one: _rank(one[1]))


def _rank(record: RunRecord) -> tuple[object, ...]:
    assert record.scores
    assert record.scores.images
    names = tuple(row.name for row in record.scores.per_class)
    return (
        record.is_outside,
        record.scores.images.known_by == "labels",
        _are_numbers(names),
        -len(names),
        record.name,
    )


def _are_numbers(names: Sequence[str]) -> bool:
    """Return whether classes have no names but their numbers."""
    return tuple(names) == tuple(map(str, range(len(names))))


@dataclass(frozen=True, eq=False)
class _TestSet:
    """The test images of a run, which others may share."""

    record: RunRecord
    scores: ScoresDocument
    images: ImagesRecord  # of the test images alone
    known_by: str
    members: list[str] = field(default_factory=list)
    """The runs that have these images, by name."""

    @classmethod
    def of(cls, record: RunRecord) -> "_TestSet | None":
        """Return that of a scored run; None where its list of images is missing or damaged."""
        images = record.images
        if record.scores is None or record.scores.images is None or images is None:
            return None
        return cls(record, record.scores, images.of("test"), record.scores.images.known_by)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.scores.per_class)

    @cached_property
    def ids(self) -> list[str]:
        """What each image is called: the id that was given, or its file's name or index."""
        places = self.images.places.tolist()
        return [
            one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else str(one)
            for one in places
        ]

    @cached_property
    def digests_of_places(self) -> Digests:
        """Digests of what each image is called, as of ids."""
        return digests_of(self.ids)

    @property
    def has_digests(self) -> bool:
        """Whether ids were given that are lmsm's own digests of the images."""
        return self.known_by == "ids" and all(map(is_digest, self.ids))

    @property
    def is_open(self) -> bool:
        """Whether there can be classes that no answer names."""
        untold = all(row.train_count is None for row in self.scores.per_class)
        return untold and self.scores.calibration_error is None  # which logits alone give


@dataclass
class _Matching:
    """The distinct test sets so far, and what was found about the runs on them."""

    known: list[_TestSet]

    def __post_init__(self) -> None:
        self._by_labels: dict[int, list[str]] = {}
        self._others: dict[int, tuple[list[str], bool]] = {}  # and whether any have its labels

    def place(self, record: RunRecord) -> RunRecord:
        """Return a run with the images of a known test set, or make its own known."""
        if not record.is_outside:
            same = next((one for one in self.known if _same_digest(record, one)), None)
            if same:
                return _turned(record, same)
        own = _TestSet.of(record)
        if own is None:
            return record
        if record.is_outside:
            found = [(n, *match) for n, one in enumerate(self.known) if (match := _match(own, one))]
            if len(found) == 1:
                number, order, by_labels = found[0]
                if by_labels:
                    self._by_labels.setdefault(number, []).append(record.name)
                self.known[number].members.append(record.name)
                return _moved(own, self.known[number], order)
            if self.known:
                names = [one.record.name for one in self.known]
                self._others[len(self.known)] = (names, bool(found))
        own.members.append(record.name)
        self.known.append(own)
        return record

    def notes(self) -> Iterator[str]:
        """Yield what was taken for the same images by labels alone, and what has other images."""
        for number, names in self._by_labels.items():
            one = self.known[number]
            note = f"{listed(names, _MOST_NAMES)}: taken for the same images by their labels as "
            note += f"{one.record.name}, whose labels are equal in the same order"
            if (np.diff(one.images.labels) >= 0).all():
                note += "; these are sorted, so that other images would have them too: give ids"
            yield note
        for number, (others, are_alike) in self._others.items():
            who = listed(self.known[number].members, _MOST_NAMES)
            first = listed(others, _MOST_NAMES)
            if are_alike:
                yield f"{who}: labels as on more than one set of test images ({first}): give ids"
            else:
                yield (
                    f"{who}: other test images than {first}, or classes of other names: "
                    "there is no difference to them"
                )


def _same_digest(record: RunRecord, one: _TestSet) -> bool:
    assert record.scores
    assert record.scores.images
    names = tuple(row.name for row in record.scores.per_class)
    known = one.scores.images
    return bool(known and record.scores.images.test == known.test and names == one.classes)


def _turned(record: RunRecord, one: _TestSet) -> RunRecord:
    """Return a run of lmsm with its predictions in the order in which another has the same images.

    They differ where files were renamed between two trainings. A run of which nothing tells its
    order is taken for one in the other's.
    """
    mine, theirs = _order_of(record), _order_of(one.record)
    if mine == theirs or mine is None or theirs is None:
        return record
    own = _TestSet.of(record)
    if own is None:
        problem = f"{record.path / PREDICTIONS} is of images in another order than that of "
        problem += f"{one.record.name}, and no images.npz tells it"
        record.late_problems.append(problem)
        return replace(record, has_known_order=False)
    order = np.empty(len(own.images), np.int64)
    order[_by_content(one.images)] = _by_content(own.images)
    return replace(record, order=order)


def _order_of(record: RunRecord) -> str | None:
    """Return the digest of a run's test images in order; older runs tell it by images.npz."""
    assert record.scores
    assert record.scores.images
    if record.scores.images.test_order:
        return record.scores.images.test_order
    images = record.images
    return images.scored["test_order"] if images else None


def _by_content(images: ImagesRecord) -> _Order:
    """Return the places of images by class and digest; it is one image where these are equal."""
    return np.lexsort((*images.digests.T[::-1], images.labels))


def _match(own: _TestSet, other: _TestSet) -> tuple[_Order | None, bool] | None:
    """Return the order in which a run has another's images, and whether by labels alone.

    None where they are not the same images, or nothing says that they are. An order of None is the
    same order.
    """
    numbers = _numbers_of_classes(own, other)
    if numbers is None:
        return None
    labels = numbers[own.images.labels]
    if len(labels) != len(other.images.labels):
        return None
    by_digest = own.known_by == "ids" and (other.known_by == "ids" or own.has_digests)
    order: _Order | None = None
    if by_digest:
        order = _order(own.images.digests, other.images.digests)
    elif own.known_by == "ids" and other.known_by == "content":
        order = _order(own.images.digests, other.digests_of_places)
    if by_digest and order is not None:
        _check_labels(own, other, labels[order])
    if order is not None and (labels[order] == other.images.labels).all():
        found: tuple[_Order | None, bool] = (order, False)
    elif not by_digest and (labels == other.images.labels).all():
        found = (None, True)
    else:
        return None
    _check_number(own, other)
    return found


def _order(own: Digests, other: Digests) -> _Order | None:
    """Return the places of one side's images in the other's order; None for other images."""
    if np.array_equal(own, other):
        return np.arange(len(own))
    (mine, sorted_own), (theirs, sorted_other) = (_sorted(one) for one in (own, other))
    if not np.array_equal(mine, theirs) or (mine[1:] == mine[:-1]).all(axis=1).any():
        return None
    order = np.empty(len(own), np.int64)
    order[sorted_other] = sorted_own
    return order


def _sorted(digests: Digests) -> tuple[NDArray[np.uint64], _Order]:
    """Return digests as two numbers each, sorted, and the places (N,) that they come from."""
    columns = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort(columns.T)
    return columns[order], order


def _numbers_of_classes(own: _TestSet, other: _TestSet) -> NDArray[np.int64] | None:
    """Return which class of the other each own class is (C,); None where they are other classes.

    Where both have names, these decide, in whatever order.
    """
    mine, theirs = own.classes, other.classes
    if mine == theirs:
        return np.arange(len(mine))
    if _are_numbers(mine) or _are_numbers(theirs):
        return np.arange(max(len(mine), len(theirs)))
    if set(mine) == set(theirs) or (own.is_open and set(mine) < set(theirs)):
        return np.array([theirs.index(name) for name in mine])
    return None


def _check_labels(own: _TestSet, other: _TestSet, labels: NDArray[np.int64]) -> None:
    """Raise DataError where an image is of another class than the other run says."""
    unlike = np.flatnonzero(labels != other.images.labels)
    if len(unlike):
        row = int(unlike[0])
        raise DataError(
            f"{own.record.path}: the image {other.ids[row]!r} is of class {labels[row]}, and of "
            f"class {other.images.labels[row]} in {other.record.path}"
            + (f"; so are {len(unlike) - 1:,} more" if len(unlike) > 1 else "")
        )


def _check_number(own: _TestSet, other: _TestSet) -> None:
    """Raise DataError where runs on the same images have unlike numbers of classes for certain."""
    mine, theirs = own.classes, other.classes
    if len(mine) != len(theirs) and not (own.is_open and len(mine) < len(theirs)):
        raise DataError(
            f"{own.record.path} has {len(mine)} classes, and {other.record.path} has {len(theirs)} "
            "for the same test images"
        )


def _moved(own: _TestSet, other: _TestSet, order: _Order | None) -> RunRecord:
    """Return a run with the other's images and classes, its predictions in the other's order."""
    assert other.scores.images
    images = Images(
        training=None,
        validation=None,
        test=other.scores.images.test,
        test_order=other.scores.images.test_order,
        known_by=own.known_by,  # type: ignore[arg-type]  # read from such a field
    )
    scores, found = own.scores, own.record.held_predictions
    if own.classes != other.classes:
        answers = own.record.predictions
        if set(own.classes) == set(other.classes):
            scores, found = _in_one_order(own, other, answers)
        elif len(own.classes) == len(other.classes):
            scores = _renamed(scores, other.classes)
        elif answers is not None:
            scores, found = _widened(own, other, answers)
    return replace(
        own.record,
        scores=scores.model_copy(update={"images": images}),
        held_predictions=found,
        order=order,
    )


def _renamed(scores: ScoresDocument, names: Sequence[str]) -> ScoresDocument:
    rows = zip(scores.per_class, names, strict=True)
    renamed = tuple(row.model_copy(update={"name": name}) for row, name in rows)
    return scores.model_copy(update={"per_class": renamed})


def _in_one_order(
    own: _TestSet, other: _TestSet, answers: Predictions | None
) -> tuple[ScoresDocument, Predictions]:
    """Return scores and predictions with the classes in the other's order.

    Raises DataError where there are no predictions to count anew.
    """
    if answers is None:
        raise DataError(
            f"{own.record.path}: its classes are {listed(own.classes)}, those of "
            f"{other.record.path} {listed(other.classes)}: the same in another order, and its "
            "predictions cannot be read; give the classes in one order"
        )
    counts = {row.name: row.train_count for row in own.scores.per_class}
    found = _numbered_anew(own, other, answers)
    anew = score(
        other.classes, found.labels, found.predicted, [counts[name] for name in other.classes]
    )
    changed = {"per_class": anew.per_class, "confusion": anew.confusion}
    return own.scores.model_copy(update=changed), found


def _widened(
    own: _TestSet, other: _TestSet, answers: Predictions
) -> tuple[ScoresDocument, Predictions]:
    """Return scores and predictions over the other's classes, which are more."""
    found = _numbered_anew(own, other, answers)
    unknown = (None,) * len(other.classes)
    scores = score(other.classes, found.labels, found.predicted, unknown)
    return ScoresDocument(**scores.parts()), found


def _numbered_anew(own: _TestSet, other: _TestSet, answers: Predictions) -> Predictions:
    """Return predictions with the other's numbers of the classes."""
    numbers = _numbers_of_classes(own, other)
    assert numbers is not None
    return Predictions(numbers[answers.labels], numbers[answers.predicted], None, None)
