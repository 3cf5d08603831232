"""Results of anybody's classifier, checked: what it said of which images, and how it was trained.

They come as arrays, from a script or from a file. Whatever is bad is refused with its column and
row; nothing is mended, and nothing left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.data.identity import PARTS, Digests, ImagesRecord, as_digests, digest
from lmsm_cli.errors import ArgumentError, LmsmError, listed, visible
from lmsm_cli.runs.documents import Images, ScoresDocument
from lmsm_cli.runs.images import MOST_LOGITS, Predictions
from lmsm_cli.runs.record import OUTSIDE
from lmsm_cli.scoring import probabilities, score

_DIGEST = re.compile(r"[0-9a-f]{32}")
_NUMERAL = re.compile(r"\s*-?\d+(\.\d*(e[-+]\d+)?)?\s*")
_KEY = re.compile(r"[a-z][a-z0-9_]*")
_OWN_KEYS = ("loss", "seed", "source", "images")
_LONGEST = 1000
"""Characters of a name or an id."""
_LARGEST_SEED = 2**32
_LARGEST_NUMBER = 1e300
_FEW_IMAGES = 10
_SPARSEST = 10
"""So many class numbers for each that occurs: years and the like have more, and 100 classes that
were tested of 1,000 have no more."""
MOST_CLASSES = 100_000
"""That are taken from the highest class number alone, in which a digit may be wrong."""


class Origin:
    """Where results come from: what their columns and rows are called, and how they are refused."""

    error: type[LmsmError] = ArgumentError
    as_names = "give them as texts, and classes"
    """What to do with numerals that are the names of classes."""
    how_many = "; else give classes or class_counts, which tell how many there are"

    def place(self, column: str, row: int | None = None) -> str:
        """Return what a column is called, or one of its rows."""
        return column if row is None else f"{column}[{row}]"

    def refuse(self, fact: str, column: str, row: int | None = None) -> NoReturn:
        """Raise the error that says where what is wrong."""
        raise self.error(f"{self.place(column, row)} {fact}")


@dataclass(frozen=True)
class Given:
    """Results as somebody gives them; what each is, `record_run` says."""

    loss: Any
    seed: Any
    labels: Any
    logits: Any = None
    predictions: Any = None
    ids: Any = None
    class_counts: Any = None
    classes: Any = None
    settings: Any = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True, eq=False)
class Results:
    """What a classifier said of N test images of C classes, in the order in which it was given."""

    loss: str
    seed: int
    labels: NDArray[np.int64]  # (N,)
    predicted: NDArray[np.int64]  # (N,)
    logits: NDArray[np.float64] | None  # (N, C)
    ids: tuple[str, ...] | None
    classes: tuple[str, ...]
    train_counts: tuple[int | None, ...]
    settings: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What the run is told apart by, as its config.yaml holds it."""
        return {"loss": self.loss, "seed": self.seed, "source": OUTSIDE, **self.settings}

    def scores(self) -> ScoresDocument:
        """Return all scores that can be computed: with logits top-k and calibration too."""
        scores = score(self.classes, self.labels, self.predicted, self.train_counts, self.logits)
        known_by = "labels" if self.ids is None else "ids"
        images = Images.model_validate(self.images().scored | {"known_by": known_by})
        return ScoresDocument(**scores.parts(), images=images)

    def predictions(self) -> Predictions:
        """Return the answers as predictions.npz holds them."""
        if self.logits is None:
            return Predictions(self.labels, self.predicted, None, None)
        shares = probabilities(self.logits, self.labels)
        logits = _in_float32(self.logits) if self.logits.size <= MOST_LOGITS else None
        return Predictions(self.labels, self.predicted, shares.astype(np.float32), logits)

    def images(self) -> ImagesRecord:
        """Return which test images these are, by their ids, or else by their labels in order."""
        count = len(self.labels)
        by_ids = self.ids is not None
        return ImagesRecord(
            self.classes,
            np.full(count, PARTS.index("test"), np.uint8),
            self.labels,
            digests_of(self.ids) if self.ids is not None else digests_by_labels(self.labels),
            np.array([i.encode() for i in self.ids or ()]) if by_ids else np.arange(count),
            (),
            (),
        )


def digests_of(ids: Sequence[str]) -> Digests:
    """Return a digest for each id; 32 hexadecimal digits are lmsm's own digest of an image."""
    return as_digests(
        [bytes.fromhex(one) if is_digest(one) else digest(one.encode()) for one in ids]
    )


def is_digest(text: str) -> bool:
    """Return whether an id is lmsm's own digest of an image."""
    return _DIGEST.fullmatch(text) is not None


def digests_by_labels(labels: NDArray[np.int64]) -> Digests:
    """Return a digest for each place in a list of labels: equal where all labels in order are."""
    whole = digest(np.ascontiguousarray(labels, ">i8").tobytes())
    return as_digests([digest(whole + place.to_bytes(8, "big")) for place in range(len(labels))])


def whole_number(text: str) -> int | None:
    """Return the whole number that a text stands for; None for every other text.

    It may be written as a float is, `3.0` or `3.000e+00`, as programs write a whole column that had
    a gap once.
    """
    value = float(text) if _NUMERAL.fullmatch(text) else np.nan
    return int(value) if value.is_integer() else None


def _in_float32(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return logits in float32, where those beyond its range become its largest, not infinite."""
    most = np.finfo(np.float32).max
    return logits.clip(-most, most).astype(np.float32)


def checked(given: Given) -> Results:
    """Return results that can be scored. Raises the error of their origin for bad ones."""
    refuse = given.origin.refuse
    loss, seed = _name(given.loss, refuse), _seed(given.seed, refuse)
    labels = _column(given.labels, "labels", refuse)
    if not len(labels):
        refuse("are empty: there are no images to score", "labels")
    logits = None if given.logits is None else _logits(given.logits, len(labels), refuse)
    predicted = None
    if given.predictions is not None:
        predicted = _column(given.predictions, "predictions", refuse)
        if len(predicted) != len(labels):
            refuse(f"are {len(predicted):,} for {len(labels):,} labels", "predictions")
    elif logits is None:
        refuse("or logits must be given: there is nothing to score", "predictions")
    counts = None if given.class_counts is None else _counts(given.class_counts, refuse)
    answers = [column for column in (labels, predicted) if column is not None]
    names = None if given.classes is None else _given_classes(given.classes, refuse)
    are_of_rows = counts is not None and _are_of_rows(counts, answers, names, logits)
    of_classes = None if are_of_rows else counts
    classes = _classes(names, answers, logits, of_classes, given.origin)
    own = _numbered(labels, "labels", classes, given.origin)
    if counts is not None and are_of_rows:
        of_classes = counts_by_class(counts, own, classes, refuse)
    if predicted is not None:
        guessed = _numbered(predicted, "predictions", classes, given.origin)
        if logits is not None:
            _check_agreement(guessed, logits, refuse)
    else:
        assert logits is not None
        guessed = logits.argmax(axis=1)
    return Results(
        loss,
        seed,
        own,
        guessed,
        logits,
        None if given.ids is None else _ids(given.ids, len(labels), refuse),
        classes,
        of_classes or (None,) * len(classes),
        _settings(given.settings, refuse),
    )


_Refuse = Callable[..., NoReturn]


def as_array(values: Any, column: str, refuse: _Refuse) -> NDArray[Any]:
    """Return an array of numbers or texts; of a tensor too, for which torch is not imported here.

    Args:
        values: An array, a tensor on any device, or lists.
        column: What they are called.
        refuse: Raises the error for what is none of these, or ragged.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # NumPy has no bfloat16
        values = values.numpy()
    try:
        array = np.asarray(values)
    except ValueError:
        refuse("has rows of unequal length", column)
    except TypeError:  # a list of tensors on a GPU
        refuse("holds neither numbers nor texts", column)
    if array.dtype.kind == "O" and all(isinstance(one, str) for one in array.flat):
        array = array.astype(str)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "surrogateescape")
    if array.dtype.kind not in "iufU":
        refuse("holds neither numbers nor texts", column)
    # beyond half precision lie the bounds that numbers are held against, for which NumPy warns
    return array.astype(np.float64) if array.dtype == np.float16 else array


def _plain(value: Any) -> Any:
    """Return Python's own text or number for one of NumPy or an enumeration, or a tensor of one."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        is_single, value = value.dtype.itemsize < 8, value.item()
        if is_single and isinstance(value, float):
            value = float(str(np.float32(value)))  # 0.1 in it is 0.1, not 0.10000000149
    for kind, plain in ((str, str.__str__), (bool, bool), (int, int), (float, float)):
        if isinstance(value, kind):
            return plain(value)
    return value


def _unfit(text: str, errors: str = "strict") -> str | None:
    """Return what is wrong with a name or an id; None for one that can be written down."""
    if not text:
        return "is empty"
    if len(text) > _LONGEST:
        return f"is longer than {_LONGEST:,} characters"
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError:
        return f"is {text!r:.80}, and half a character cannot be written"
    return None


def _name(value: Any, refuse: _Refuse) -> str:
    value = _plain(value)
    if not isinstance(value, str) or _unfit(value.strip()):
        refuse(f"is {value!r:.80}: give a name, such as softmax", "loss")
    return value.strip()


def _seed(value: Any, refuse: _Refuse) -> int:
    value = _plain(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 <= value < _LARGEST_SEED:
        refuse(f"is {value!r:.80}: give a whole number from 0 to {_LARGEST_SEED - 1}", "seed")
    return int(value)


def _column(values: Any, column: str, refuse: _Refuse) -> NDArray[Any]:
    array = as_array(values, column, refuse)
    if array.ndim != 1:
        refuse(f"has the shape {array.shape}: give one class an image, (N,)", column)
    if array.dtype.kind == "U":
        for row, one in enumerate(array.tolist()):
            if fault := _unfit(one, "surrogateescape"):
                refuse(fault, column, row)
    return array


def _logits(values: Any, count: int, refuse: _Refuse) -> NDArray[np.float64]:
    """Return finite logits (N, C) in float64, whatever they are given in."""
    array = as_array(values, "logits", refuse)
    if array.dtype.kind == "U" or array.ndim != 2 or array.shape[1] < 2:
        refuse(
            f"has the shape {array.shape}: give a number for each image and class, (N, C)", "logits"
        )
    if len(array) != count:
        refuse(f"are of {len(array):,} images, for {count:,} labels", "logits")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        refuse(
            f"hold {_first_unfit(array[bad[0]])}: only finite logits can be scored",
            "logits",
            int(bad[0]),
        )
    for whole in (1, 100):
        if array.min() >= 0 and array.max() <= whole * 1.01 and _are_shares(array / whole):
            refuse(
                f"are probabilities, which add up to {whole} for each image: give their "
                "logarithms, or where some are 0 the predictions alone",
                "logits",
            )
    return array


def _are_shares(array: NDArray[np.float64]) -> bool:
    """Return whether numbers from 0 to 1 add up to 1 in every row, as far as they are rounded.

    Each may be off by 0.5%, more than bfloat16 or three digits lose, and by half a unit of the last
    decimal. Non-negative logits add up so in one row of a hundred, hence in all of ten rows never.
    Of fewer images only what adds up to four digits is taken for probabilities.

    Where the decimals lose much, as two of a thousand classes do, any small numbers could add up
    to 1, but only those of probabilities have a highest that stands out.
    """
    if len(array) < _FEW_IMAGES:
        return bool((abs(array.sum(axis=1) - 1) <= 1e-4).all())
    half = _half_step(array)
    off = 0.005 * array + half
    fits = (np.maximum(array - off, 0).sum(axis=1) <= 1) & ((array + off).sum(axis=1) >= 1)
    lost = half * array.shape[1]
    return bool(fits.all()) and float(array.max(axis=1).mean()) >= min(lost, 0.25)


def _half_step(array: NDArray[np.float64]) -> float:
    """Return half a unit of the last of two to five decimals; 0 of numbers that have more."""
    for decimals in range(2, 6):
        if (abs(array - array.round(decimals)) < 1e-7).all():  # float32 is off by less
            return float(0.5 * 10.0**-decimals)
    return 0.0


def _first_unfit(row: NDArray[np.float64]) -> str:
    return str(row[~np.isfinite(row)][0])


def _counts(values: Any, refuse: _Refuse) -> tuple[int | None, ...]:
    """Return the training images of each class, None where a list has None."""
    if isinstance(values, Sequence) and any(one is None for one in values):
        known = _counts([0 if one is None else one for one in values], refuse)
        pairs = zip(known, values, strict=True)
        return tuple(None if one is None else count for count, one in pairs)
    array = as_array(values, "class_counts", refuse)
    if array.dtype.kind not in "iuf" or array.ndim != 1:
        refuse("must be one whole number a class, (C,)", "class_counts")
    bad = np.flatnonzero(~((array >= 0) & (array == np.floor(array)) & (array < 2**53)))
    if len(bad):
        refuse(
            f"is {array[bad[0]]}: give the training images of each class",
            "class_counts",
            int(bad[0]),
        )
    return tuple(array.astype(np.int64).tolist())


def _are_of_rows(
    counts: Sequence[int | None],
    answers: Sequence[NDArray[Any]],
    classes: Sequence[str] | None,
    logits: NDArray[np.float64] | None,
) -> bool:
    """Return whether there is a count for each image, that of its class, as a CSV file has them.

    There may be more classes than the highest number tells, with counts and no images. As many as
    the images they are where a class has two counts, unless half of them had no image.
    """
    labels = answers[0]
    if len(counts) != len(labels):
        return False
    if logits is not None:
        return bool(len(counts) != logits.shape[1])
    if classes is not None:
        return len(counts) != len(classes)
    if not all(map(_are_numbers, answers)):
        return len(counts) != len({one for column in answers for one in column.tolist()})
    numbers = [_parsed(one) if one.dtype.kind == "U" else one for one in answers]
    told = 1 + int(max(np.nan_to_num(one, nan=0, posinf=0, neginf=0).max() for one in numbers))
    pairs = {pair for pair in zip(labels.tolist(), counts, strict=True) if pair[1] is not None}
    has_two = len(pairs) > len({label for label, _ in pairs})
    return len(counts) != told and (len(counts) >= 2 * told or not has_two)


def counts_by_class(
    counts: Sequence[int | None],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    refuse: _Refuse,
) -> tuple[int | None, ...]:
    """Return the training images of each class (C,) from those of each image's (N,).

    None is what is not known. Refuses a class of which two images tell two counts.
    """
    found: list[int | None] = [None] * len(classes)
    for row, (count, label) in enumerate(zip(counts, labels.tolist(), strict=True)):
        if count is not None and found[label] not in (None, count):
            refuse(
                f"is {count}, where an earlier row of class {classes[label]} has {found[label]}",
                "class_counts",
                row,
            )
        found[label] = found[label] if count is None else count
    return tuple(found)


def _classes(
    given: tuple[str, ...] | None,
    answers: Sequence[NDArray[Any]],
    logits: NDArray[np.float64] | None,
    counts: Sequence[int | None] | None,
    origin: Origin,
) -> tuple[str, ...]:
    """Return the names of all classes: as given, or else numbers, or else the names that occur."""
    refuse = origin.refuse
    sizes = {
        "logits": None if logits is None else logits.shape[1],
        "class_counts": None if counts is None else len(counts),
    }
    known = {name: size for name, size in sizes.items() if size is not None}
    if given is not None:
        names = given
    elif not known:
        names = classes_told(answers, origin)
    elif all(map(_are_numbers, answers)):
        names = tuple(map(str, range(max(known.values()))))
    else:
        refuse(
            "must be given, in the order of the logits and counts, since the labels are names",
            "classes",
        )
    for name, size in known.items():
        if size != len(names):
            refuse(f"are of {size} classes, and there are {len(names)}: {listed(names)}", name)
    if len(names) < 2:
        refuse("are fewer than two: there is nothing to tell apart", "classes")
    return names


def _given_classes(given: Any, refuse: _Refuse) -> tuple[str, ...]:
    """Return the names of classes, each of them once."""
    array = as_array(given, "classes", refuse)
    if array.ndim != 1:
        refuse(f"has the shape {array.shape}: give a name for each class, (C,)", "classes")
    names: list[str] = array.astype(str).tolist()
    for place, name in enumerate(names):
        if fault := _unfit(name, "surrogateescape"):  # folders may be named so
            refuse(fault, "classes", place)
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        refuse(f"name {twice!r} twice", "classes")
    return tuple(names)


def classes_told(answers: Sequence[Any], origin: Origin) -> tuple[str, ...]:
    """Return the classes that labels tell, and predictions if there are any, in whatever order.

    They are numbers where all labels are whole numbers, and names where one is a word: numerals
    among them are names then. Raises the error of the origin for an answer of another kind, as NaN
    among whole numbers is, and for numbers so sparse that they look like names.
    """
    named = list(zip(("labels", "predictions"), answers, strict=False))
    columns = [_column(one, name, origin.refuse) for name, one in named]
    labels, *predicted = columns
    if not _are_numbers(labels):
        if any(column.dtype.kind != "U" for column in predicted):
            origin.refuse(
                "must be given, since labels and predictions are not both names, or both numbers",
                "classes",
            )
        cells = labels.tolist()
        if any(whole_number(one) is not None for one in cells) and all(map(is_number, cells)):
            _check_whole(labels, "labels", origin)
        for column in predicted:
            check_kinds(cells, column.tolist(), origin)
        return tuple(sorted({one for column in columns for one in column.tolist()}))
    for column in predicted:
        _check_whole(column, "predictions", origin)
    return tuple(map(str, range(_highest(columns, origin) + 1)))


def check_kinds(labels: Sequence[str], predictions: Sequence[str], origin: Origin) -> None:
    """Refuse numbers as the predictions of names: none of them could be right.

    Where one label is a number too, as a name among words, predictions may be such names.
    """
    if not any(map(is_number, set(labels))) and all(map(is_number, set(predictions))):
        origin.refuse(
            f"is {predictions[0]!r:.80}, where labels are names, as {labels[0]!r:.80} is: give "
            f"both as names, or both as class numbers; where these are names, {origin.as_names}",
            "predictions",
            0,
        )


def _are_numbers(column: NDArray[Any]) -> bool:
    """Return whether a column is of class numbers: as numbers, or as texts of whole numbers."""
    return column.dtype.kind != "U" or all(
        whole_number(one) is not None for one in set(column.tolist())
    )


def _check_whole(column: NDArray[Any], name: str, origin: Origin) -> None:
    """Refuse a text that is no whole number, where others are."""
    for row, one in enumerate(column.tolist() if column.dtype.kind == "U" else ()):
        if whole_number(one) is None:
            origin.refuse(
                f"is {one!r:.80}, where labels are class numbers; where they are names, "
                f"{origin.as_names}",
                name,
                row,
            )


def is_number(text: str) -> bool:
    """Return whether a text is a number of any kind, NaN too."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _highest(columns: Sequence[NDArray[Any]], origin: Origin) -> int:
    """Return the highest class number, of what can be one; refuse one that no data set has."""
    highest, place = 0, ("labels", 0)
    found: set[float] = set()
    for name, column in zip(("labels", "predictions"), columns, strict=False):
        numbers = column if column.dtype.kind != "U" else _parsed(column)
        numbers = np.nan_to_num(numbers, nan=0, posinf=0, neginf=0)
        row = int(numbers.argmax())
        if numbers[row] >= MOST_CLASSES:
            origin.refuse(
                f"is {column[row]}: where neither logits, class_counts nor classes tell how many "
                f"there are, class numbers are below {MOST_CLASSES:,}",
                name,
                row,
            )
        found.update(numbers.tolist())
        if numbers[row] > highest:
            highest, place = int(numbers[row]), (name, row)
    if highest >= _SPARSEST * len(found):
        origin.refuse(
            f"is {highest}, and of the class numbers 0 to {highest} only {len(found)} occur: where "
            f"they are names, {origin.as_names}{origin.how_many}",
            *place,
        )
    return highest


def _parsed(column: NDArray[Any]) -> NDArray[np.float64]:
    """Return texts as whole numbers, NaN for those that are none."""
    numbers = map(whole_number, column.tolist())
    return np.array([np.nan if number is None else number for number in numbers], np.float64)


def _numbered(
    column: NDArray[Any], name: str, classes: Sequence[str], origin: Origin
) -> NDArray[np.int64]:
    """Return class numbers for a column of numbers or names."""
    place = {one: number for number, one in enumerate(classes)}
    have_names = tuple(classes) != tuple(map(str, range(len(classes))))
    if column.dtype.kind == "U" and (
        not _are_numbers(column) or (have_names and any(one in place for one in column.tolist()))
    ):
        for row, one in enumerate(column.tolist()):
            if one not in place:
                origin.refuse(
                    f"is {one!r:.80}, which is none of the classes {listed(classes)}", name, row
                )
        return np.array([place[one] for one in column.tolist()], np.int64)
    numbers = _parsed(column) if column.dtype.kind == "U" else column
    with np.errstate(invalid="ignore"):
        fits = (numbers >= 0) & (numbers < len(classes)) & (numbers == np.floor(numbers))
    bad = np.flatnonzero(~fits)
    if len(bad):
        found = column[bad[0]]
        shown = repr(str(found)) if column.dtype.kind == "U" else str(found)
        hint = (
            ""
            if have_names or numbers[bad[0]] < 0
            else f"; where they are names, {origin.as_names}"
        )
        origin.refuse(
            f"is {shown:.80}: the {len(classes)} classes are 0 to {len(classes) - 1}{hint}",
            name,
            int(bad[0]),
        )
    return numbers.astype(np.int64)


def _check_agreement(
    predicted: NDArray[np.int64], logits: NDArray[np.float64], refuse: _Refuse
) -> None:
    """Refuse predictions that are not the highest logit, among equal ones any."""
    chosen = logits[np.arange(len(predicted)), predicted]
    bad = np.flatnonzero(chosen < logits.max(axis=1))
    if len(bad):
        row = int(bad[0])
        refuse(
            f"is {predicted[row]}, where the logits are highest for {logits[row].argmax()}: give "
            "the logits that the predictions were made from, or the predictions alone",
            "predictions",
            row,
        )


def _ids(values: Any, count: int, refuse: _Refuse) -> tuple[str, ...]:
    """Return the ids as texts; digests of 16 bytes become 32 hexadecimal digits."""
    array = as_array(values, "ids", refuse)
    if array.dtype == np.uint8 and array.ndim == 2 and array.shape[1] == 16:
        ids = [row.tobytes().hex() for row in np.ascontiguousarray(array)]
    elif array.ndim == 1 and array.dtype.kind in "iuU":
        ids = list(map(str, array.tolist()))
    else:
        refuse("must be a text or whole number an image, or lmsm's digests (N, 16)", "ids")
    if len(ids) != count:
        refuse(f"are {len(ids):,}, for {count:,} labels", "ids")
    rows: dict[str, int] = {}
    for row, one in enumerate(ids):
        if fault := _unfit(one):
            refuse(fault, "ids", row)
        if (first := rows.setdefault(one, row)) != row:
            refuse(f"is {one!r:.80}, as an earlier row is (number {first + 1:,})", "ids", row)
    return tuple(ids)


def _settings(given: Any, refuse: _Refuse) -> dict[str, Any]:
    """Return the further choices of a run, such as its learning rate, as config.yaml takes them."""
    if not isinstance(given, Mapping):
        refuse(f"is {given!r:.80}: give names with their values, such as {{'lr': 0.1}}", "settings")
    found = {_plain(key): _plain(value) for key, value in given.items()}
    for key, value in found.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key) or key in _OWN_KEYS:
            refuse(f"cannot have a key {visible(str(key))!r:.80}", "settings")
        if not _is_setting(value):
            refuse(f"has no text or number as its {key}: {value!r:.80}", "settings")
    return found


def _is_setting(value: Any) -> bool:
    """Return whether config.yaml can hold a value and give it back."""
    if isinstance(value, str):
        return value == "" or _unfit(value) is None
    if isinstance(value, int | float):
        return -_LARGEST_NUMBER < value < _LARGEST_NUMBER  # neither is a number without an end
    return value is None
