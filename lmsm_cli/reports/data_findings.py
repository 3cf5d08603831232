"""What a data check found, in sentences: what forbids a training, what makes it say little.

To add a finding, add a function that takes the check and the config and yields `Finding`s, and name
it in `_KINDS`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lmsm_cli.comparison.two_way import FEWEST_IMAGES
from lmsm_cli.comparison.verdicts import FEWEST_STEPS
from lmsm_cli.config import Config
from lmsm_cli.data.batches import num_batches
from lmsm_cli.data.check import ClassImages, DataCheck
from lmsm_cli.data.folds import A_FIFTH
from lmsm_cli.data.identity import Copies
from lmsm_cli.data.image_files import notes_on_levels
from lmsm_cli.data.near_copies import MOST_IMAGES
from lmsm_cli.errors import counted, few, listed, visible

Level = Literal["mend", "weak", "note"]
"""`mend` forbids a training, `weak` makes its scores say less than they seem to."""

# From this many times the wanted size on, pictures lose what may be needed to tell them apart.
_USUAL_FOLDS = 5
_SHRUNK = 2
SKIP = "--skip-unreadable"
"""The flag that ends the text of a finding that it goes on without."""

_USUAL_SIDES = (64, 96, 128, 224)


@dataclass(frozen=True)
class Finding:
    """One thing that was found, as a sentence without a full stop: the fact; the way out."""

    level: Level
    text: str

    @property
    def fact(self) -> str:
        """The sentence without its way out."""
        return self.text.partition("; ")[0]


def findings_of(check: DataCheck, config: Config) -> list[Finding]:
    """Return what was found in a data set, the gravest first, for a training by the config."""
    found = [one for kind in _KINDS for one in kind(check, config)]
    order = ("mend", "weak", "note")
    return sorted(found, key=lambda one: order.index(one.level))


def can_start(findings: Sequence[Finding]) -> bool:
    """Return whether a training could start on the data."""
    return all(one.level != "mend" for one in findings)


def conclusion_of(check: DataCheck, findings: Sequence[Finding]) -> str:
    """Return in a sentence whether the data is fit for a training, or what to mend first."""
    faults = [one.fact for one in findings if one.level == "mend"]
    if faults:
        return f"No training can start yet. Mend first: {_joined(faults)}."
    counts = [counted(check.count("training"), "training image")]
    counts += [f"{number:,} validation" for number in [check.count("validation")] if number]
    what = f"{', '.join(counts)} and {counted(check.count('test'), 'test image')}"
    if check.folds:
        tested = counted(sum(one.tested for one in check.classes), "image")
        what = f"{tested} tested in {check.folds.number} folds, of which the first has {what}"
    weak = [one.fact for one in findings if one.level == "weak"]
    if weak:
        return f"A training can start, with {what}. Better mend first: {_joined(weak)}."
    return f"Fit for training: {what} of {len(check.classes):,} classes."


def findings_document(check: DataCheck, config: Config, plan: dict[str, Any]) -> dict[str, Any]:
    """Return the check and its findings as the document that --json prints.

    Args:
        check: what is known of the data.
        config: of the training that it is checked for.
        plan: the values that the training would have by default or choice, by key.
    """
    found = findings_of(check, config)
    return {
        "dataset": check.dataset,
        "place": None if check.place is None else visible(str(check.place)),
        "can_start": can_start(found),
        "conclusion": conclusion_of(check, found),
        "findings": [{"level": one.level, "text": visible(one.text)} for one in found],
        "images": {part: check.count(part) for part in ("training", "validation", "test")},
        "classes": [{"name": one.name, "group": one.group, **one.parts} for one in check.classes],
        "groups": {
            name: {part: check.count(part, name) for part in ("training", "validation", "test")}
            for name in check.groups
        },
        "folds": _folds_document(check),
        "kept_together": check.images_of and asdict(check.images_of),
        "files": _files_document(check),
        "copies": {
            kind: list(map(_copies_document, own)) for kind, own in copies_by_kind(check).items()
        },
        "training": plan,
    }


def copies_by_kind(check: DataCheck) -> dict[str, list[Copies]]:
    """Return the pictures that stand more than once, by what is wrong with it; some in two."""
    return {
        "two_classes": [one for one in check.copies if one.is_of_two_classes],
        "two_parts": [one for one in check.copies if one.is_in_two_parts],
        "alike": check.alike or [],
        "same_class": [one for one in check.copies if one.is_twice_in_a_class],
    }


def _folds_document(check: DataCheck) -> dict[str, Any] | None:
    folds = check.folds
    if folds is None:
        return None
    return {
        "number": folds.number,
        "split_seed": folds.seed,
        "test_images": folds.totals,
        "classes": [
            {
                "name": one.name,
                "test": folds.tested[one.name],
                "never_tested": folds.never[one.name],
            }
            for one in check.classes
        ],
    }


def _files_document(check: DataCheck) -> dict[str, Any] | None:
    folder = check.folder
    if folder is None:
        return None
    shapes = folder.shapes
    sides = {} if shapes is None else {"width": shapes.width, "height": shapes.height}
    return {
        "sizes": {name: side._asdict() for name, side in sides.items()},
        "smaller_than_wanted": shapes.smaller if shapes else 0,
        "not_square": shapes.not_square if shapes else 0,
        "colour_modes": shapes.modes if shapes else {},
        "formats": shapes.formats if shapes else {},
        "unreadable": [
            {"file": visible(file), "reason": reason} for file, reason in folder.unreadable.items()
        ],
        "left_out": {kind: list(map(visible, names)) for kind, names in folder.left_out.items()},
        "empty_classes": folder.empty,
        "one_image_classes": folder.lonely,
        "classes_not_in_training": list(map(visible, folder.strange)),
        "look_alikes": folder.look_alikes,
    }


def _copies_document(one: Copies) -> dict[str, Any]:
    return {"files": list(map(visible, one.names)), "parts": list(one.parts)}


def _faults(check: DataCheck, config: Config) -> Iterator[Finding]:
    folder = check.folder
    for text in dict.fromkeys([*(folder.faults if folder else []), *check.faults]):
        yield Finding("mend", text)
    if folder and folder.unreadable:
        files = counted(len(folder.unreadable), "image file")
        if config.skip_unreadable:
            yield Finding("weak", f"{files} cannot be read; --skip-unreadable goes on without")
        else:
            yield Finding(
                "mend",
                f"{files} cannot be read; replace or remove what is listed above, or go on "
                f"without: {SKIP}",
            )


def _copies(check: DataCheck, config: Config) -> Iterator[Finding]:
    kinds = copies_by_kind(check)
    if own := kinds["two_classes"]:
        yield Finding("weak", f"{_pictures(own)} in two classes; keep the right label of each")
    if own := kinds["two_parts"]:
        yield Finding(
            "weak",
            f"{_pictures(own)} on two sides of the split, which flatters scores; remove the copies",
        )
    if own := kinds["alike"]:
        one = "1 group" if len(own) == 1 else f"{len(own):,} groups"
        yield Finding(
            "weak",
            f"{one} of pictures in two classes or on two sides of the split look nearly the same; "
            "if they are one picture at another size or in another encoding, remove the copies",
        )
    if check.alike is None:
        yield Finding(
            "note",
            f"pictures that look nearly the same are not looked for: more than {MOST_IMAGES:,}",
        )
    if own := kinds["same_class"]:
        yield Finding("note", f"{_pictures(own)} in a class more than once")


def _too_little(check: DataCheck, config: Config) -> Iterator[Finding]:
    """Yield what the test images are too few for."""
    trained = [one for one in check.classes if one.parts["training"]]
    if untested := [_name(one) for one in trained if not one.tested]:
        what = "images" if check.folds else "test images"
        yield Finding("weak", f"no image of {listed(untested)} is tested; add {what}")
    for one in trained:
        if one.tested == 1:
            yield Finding(
                "weak",
                f"{_name(one)} has {counted(one.total, 'image')}: 1 is tested, so nothing can be "
                f"said of {_name(one)}; add images{_or_folds(check, config)}",
            )
    groups = check.groups or {"the whole test": list(check.classes)}
    for name, members in groups.items():
        count = sum(one.tested for one in members)
        if count < FEWEST_IMAGES:
            yield Finding(
                "weak",
                f"{FEWEST_IMAGES} test images are needed for a verdict: {name} has {count}; "
                f"{_more_of(members, count, check, config)}",
            )


def _or_folds(check: DataCheck, config: Config) -> str:
    folds = usual_folds(check) if _may_have_folds(config) else 0
    return f", or test all of them by {_by_folds(folds)}" if folds else ""


def _by_folds(folds: int) -> str:
    """Return what tests each image once; a study divides them by itself, and takes no folds."""
    return f"`lmsm train --folds {folds}` or a study"


def _may_have_folds(config: Config) -> bool:
    """Return whether a training takes folds beside these choices: a share for a test is none."""
    return not config.folds and config.test_share == Config.model_fields["test_share"].default


def usual_folds(check: DataCheck) -> int:
    """Return how many folds to name, at most five; 0 where there can be none."""
    largest = max((one.total for one in check.classes), default=0)
    return min(_USUAL_FOLDS, largest) if _is_shared_out(check) and largest > 1 else 0


def _division(check: DataCheck, config: Config) -> Iterator[Finding]:
    """Yield what folds and groups do to the test."""
    folds, groups = check.folds, check.images_of
    if folds:
        least, most = min(folds.totals), max(folds.totals)
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        yield Finding(
            "note",
            f"each image is tested in one of {folds.number} folds, {each} in each (--split-seed "
            f"{folds.seed}); the table of parts is of fold {config.fold or 0}",
        )
        if folds.seldom:
            yield Finding("note", folds.seldom)
    if groups:
        where = "tested in one fold" if folds else "on one side of the split"
        yield Finding(
            "note",
            f"images are of {counted(groups.count, 'group')}, each {where} as a whole; the "
            f"largest, {groups.largest!r}, has {counted(groups.largest_images, 'image')}",
        )
    if config.test_from == "training":
        yield Finding("note", "the test is held out of the training images (--test-from training)")


def _is_shared_out(check: DataCheck) -> bool:
    return check.folder is not None and check.folder.is_shared_out


def _more_of(members: Sequence[ClassImages], count: int, check: DataCheck, config: Config) -> str:
    """Return how a group gets as many test images as a verdict needs."""
    if config.test_images_per_class is not None:
        return "allow more of each class: --test-images-per-class"
    missing = FEWEST_IMAGES - count
    names = listed(list(map(_name, members)))
    if check.folds:
        return f"add {counted(missing, 'image')} of {names}"
    if _is_shared_out(check):
        share, folds = config.test_share, usual_folds(check)
        text = (
            f"add about {missing / share:.0f} images of {names}: {_share(share)} becomes the test"
        )
        # an image that is the only one of its class is never tested
        has_folds = folds and _may_have_folds(config) and all(one.total > 1 for one in members)
        return f"{text}; {_by_folds(folds)} tests all images" if has_folds else text
    return f"add {counted(missing, 'test image')} of {names}"


def _validation(check: DataCheck, config: Config) -> Iterator[Finding]:
    if not check.count("validation"):
        return
    trained = [one for one in check.classes if one.parts["training"]]
    if without := [_name(one) for one in trained if not one.parts["validation"]]:
        yield Finding("note", f"no image of {listed(without)} is held out for validation")


def _length(check: DataCheck, config: Config) -> Iterator[Finding]:
    """Yield that a training is so short that a comparison would call it so."""
    count = check.count("training")
    if not count or check.faults:
        return
    steps = num_batches(count, config.batch_size)
    if 0 < steps * config.epochs < FEWEST_STEPS:
        epochs = -(-FEWEST_STEPS // steps)
        yield Finding(
            "note",
            f"{counted(config.epochs, 'epoch')} of {counted(steps, 'step')} are few for a "
            f"comparison; --epochs {epochs} makes {FEWEST_STEPS} steps",
        )


def _dark(check: DataCheck, config: Config) -> Iterator[Finding]:
    for text in notes_on_levels(check.folder.levels) if check.folder else []:
        yield Finding("weak", text)


def _pictures_themselves(check: DataCheck, config: Config) -> Iterator[Finding]:
    shapes = check.folder.shapes if check.folder else None
    if shapes is None:
        return
    size, side = config.image_size, shapes.shorter_side.median
    if side >= _SHRUNK * size:
        larger = max(one for one in (*_USUAL_SIDES, 2 * size) if one <= side)
        yield Finding(
            "note",
            f"images of {shapes.width.median} x {shapes.height.median} (the medians) are brought "
            f"to {size} x {size}; --image-size {larger} keeps more of them",
        )
    if shapes.smaller:
        yield Finding(
            "note",
            f"{counted(shapes.smaller, 'image')} smaller than {size} x {size} are enlarged",
        )
    if shapes.not_square and config.resize == "crop":
        number = counted(shapes.not_square, "image")
        yield Finding(
            "note", f"{number} not square: the edges are cut off; --resize pad keeps them"
        )


def _left_out(check: DataCheck, config: Config) -> Iterator[Finding]:
    folder = check.folder
    if folder is None:
        return
    if folder.is_shared_out and not check.folds:
        yield Finding(
            "note", f"there is no test/: {_share(config.test_share)} of each class is the test"
        )
    for text in folder.notes:
        yield Finding("note", text)
    if hidden := folder.left_out.get("hidden"):
        yield Finding("note", f"skipped {counted(len(hidden), 'hidden name')}: {few(hidden)}")


_KINDS: tuple[Callable[[DataCheck, Config], Iterator[Finding]], ...] = (
    _faults,
    _copies,
    _too_little,
    _division,
    _validation,
    _length,
    _dark,
    _pictures_themselves,
    _left_out,
)


def _share(share: float) -> str:
    return "a fifth" if share == A_FIFTH.test_share else f"{share:.3g}"


def _name(one: ClassImages) -> str:
    """Return a class's name, in quotes where its ends could not be seen."""
    return one.name if one.name == one.name.strip() else repr(one.name)


def _pictures(found: Sequence[Copies]) -> str:
    return "1 picture stands" if len(found) == 1 else f"{len(found):,} pictures stand"


def _joined(facts: Sequence[str], shown: int = 4) -> str:
    more = f"; and {len(facts) - shown} more" if len(facts) > shown else ""
    return visible("; ".join(facts[:shown])) + more
