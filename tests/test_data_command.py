"""`lmsm data`: every finding at once, and the numbers of a training."""

import json
import os
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.data import decoding
from lmsm_cli.data.identity import PARTS
from lmsm_cli.data.splits import load_data
from lmsm_cli.runs.images import read_images_record
from tests.conftest import SilentDisplay, noise, save
from tests.test_deep_colours import png

MODEL = "--model paper-mnist --epochs 1 --threads 1 --device cpu --precision fp32"


def fill(folder, counts, *, seed=0, shape=(8, 8, 3)):
    """Write so many noise images for each class; no two are alike."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = noise(10_000 * seed + 1000 * label + number, shape)
            save(folder / name / f"{number:03}.png", picture)


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Return a function that checks a data set; it gives exit code, document and messages."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        size = [] if words[0] in ("digits", "mnist") else ["--image-size", "8"]
        code = main(["data", *map(str, words), *size, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out or "null", parse_constant=pytest.fail), printed.err

    return run


def texts(document, level):
    """Return the findings of a level."""
    return [one["text"] for one in document["findings"] if one["level"] == level]


def make_messy(root):
    """Make a folder with every fault and every kind of litter, and return it."""
    folder = root / "messy"
    fill(folder, {"ant": 30, "bee": 12, "Bee ": 4, "cat": 5, "newt": 1, "snake": 0})
    deep = folder / "ant" / "day" / "one"
    deep.mkdir(parents=True)
    kinds = {"a.webp": "RGB", "b.bmp": "RGB", "c.tiff": "RGB", "d.gif": "P", "e.jpg": "CMYK"}
    for number, (name, mode) in enumerate(kinds.items()):
        Image.fromarray(noise(500 + number, (20, 30, 3))).convert(mode).save(deep / name)
    Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(folder / "bee" / "deep.png")
    (folder / "cat" / "empty.png").touch()
    (folder / "cat" / "text.jpg").write_text("x")
    whole = (deep / "e.jpg").read_bytes()
    (folder / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with open(os.fsencode(folder / "bee") + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    (folder / "bee" / "as_ant.png").write_bytes((folder / "ant" / "003.png").read_bytes())
    for copy in range(8):
        (folder / "ant" / f"copy{copy}.png").write_bytes((folder / "ant" / "004.png").read_bytes())
    Image.open(folder / "cat" / "001.png").save(folder / "cat" / "again.bmp")
    fill(root / "elsewhere", {"far": 1}, seed=7)
    (folder / "cat" / "link.png").symlink_to(root / "elsewhere" / "far" / "000.png")
    (folder / "cat" / "notes.txt").touch()
    (folder / "cat" / ".hidden.png").touch()
    (folder / "loose.png").write_bytes((folder / "ant" / "005.png").read_bytes())
    return folder


def test_a_messy_folder_is_told_whole_at_once(check, tmp_path):
    """One call names every fault, doubt and piece of litter, and says that nothing can start."""
    code, found, _ = check(make_messy(tmp_path), "--batch-size", "8")
    files = found["files"]
    assert (code, found["can_start"]) == (3, False)
    assert {one["file"] for one in files["unreadable"]} == {
        *("cat/empty.png", "cat/text.jpg", "cat/cut.jpg", "bee/caf\\udce9.png")
    }
    reasons = {one["file"]: one["reason"] for one in files["unreadable"]}
    assert reasons["cat/empty.png"] == "is not an image: it is empty"
    assert "truncated" in reasons["cat/cut.jpg"]
    assert files["empty_classes"] == ["snake"]
    assert files["one_image_classes"] == ["newt"]
    assert [sorted(group) for group in files["look_alikes"]] == [["Bee ", "bee"]]
    assert files["left_out"] == {
        "foreign": ["cat/notes.txt"],
        "outside": ["cat/link.png"],
        "loose": ["loose.png"],
        "hidden": ["cat/.hidden.png"],
    }
    assert files["formats"] == {"PNG": 62, "BMP": 2, "WEBP": 1, "TIFF": 1, "GIF": 1, "JPEG": 1}
    assert files["colour_modes"] == {"RGB": 65, "P": 1, "CMYK": 1, "I;16": 1}
    copies = {kind: [set(one["files"]) for one in own] for kind, own in found["copies"].items()}
    assert copies["two_classes"] == [{"ant/003.png", "bee/as_ant.png"}]
    many = {"ant/004.png", *(f"ant/copy{copy}.png" for copy in range(8))}
    assert many in copies["two_parts"]
    assert sorted(map(len, copies["same_class"])) == [2, 9]
    assert {"cat/001.png", "cat/again.bmp"} in copies["same_class"]
    mend, weak = "\n".join(texts(found, "mend")), "\n".join(texts(found, "weak"))
    assert "messy/snake holds no images" in mend
    assert "no image of newt is tested" in weak
    assert "4 image files cannot be read" in mend
    assert "1 picture stands in two classes" in weak
    assert "on two sides of the split" in weak
    assert "'Bee ' has 4 images: 1 is tested, so nothing can be said of 'Bee '; add images" in weak
    assert "20 test images are needed for a verdict: few has 0; add about 100 images" in weak
    assert found["conclusion"].startswith("No training can start yet. Mend first: the class folder")
    assert "4 image files cannot be read" in found["conclusion"]


def test_nothing_is_written_and_each_file_is_decoded_once(check, tmp_path, monkeypatch):
    """The folder holds what it held; a second check decodes only what cannot be read."""
    folder = make_messy(tmp_path)
    before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    decoded = []
    whole = decoding.decode
    monkeypatch.setattr(
        decoding, "decode", lambda content, *rest: decoded.append(content) or whole(content, *rest)
    )
    broken = {b"x", (folder / "cat" / "cut.jpg").read_bytes()}
    files = [path for path in folder.rglob("*/*.*") if path.name[0] != "." and path.is_file()]
    contents = Counter(path.read_bytes() for path in files if not path.is_symlink())
    first = check(folder)[:2]
    readable = {one: n for one, n in Counter(decoded).items() if one not in broken}
    assert readable == {one: n for one, n in contents.items() if one and one not in broken}
    decoded.clear()
    assert check(folder)[:2] == first
    assert set(decoded) == broken
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("layout", "flags"),
    [
        ("flat", "--validation 0.2 --skip-unreadable"),
        ("flat", "--imbalance exp --factor 0.2 --validation 0.1"),
        ("parts", "--images-per-class 9 --test-images-per-class 3 --split-seed 4"),
        ("parts", "--validation 0"),
    ],
)
def test_the_numbers_are_those_of_a_training(check, tmp_path, capsys, layout, flags):
    """Class by class and part by part, images.npz of a run on the same flags counts the same."""
    counts = {"ant": 30, "bee": 20, "cat": 11}
    if layout == "flat":
        fill(tmp_path / "d", counts)
    else:
        for seed, part in enumerate(("train", "val", "test")):
            fill(tmp_path / "d" / part, counts, seed=seed)
    if "skip" in flags:
        next(iter((tmp_path / "d").rglob("cat/003.png"))).write_text("x")
    words = [*flags.split(), "--batch-size", "8"]
    code, found, _ = check("d", *words)
    assert code == 0
    train = ["train", "--dataset", "folder", "--data-dir", "d", "--image-size", "8", "--quiet"]
    assert main([*train, *MODEL.split(), *words]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    record = read_images_record(run)
    expected = Counter(
        (record.classes[label], PARTS[part])
        for label, part in zip(record.labels.tolist(), record.split.tolist(), strict=True)
    )
    told = {(one["name"], part): one[part] for one in found["classes"] for part in PARTS}
    assert {key: count for key, count in told.items() if count} == expected
    assert found["images"] == {part: sum(record.split == at) for at, part in enumerate(PARTS)}
    scores = json.loads((run / "scores.json").read_text())
    assert list(found["groups"]) == [name for name in scores["groups"] if scores["groups"]]


FOLDED = {"ant": 30, "bee": 12, "frog": 4, "newt": 1}


def folds_of_trainings(folder, count, **choices):
    """Return the test images of each fold by class, as the trainings of the folds load them."""
    values = {"dataset": "folder", "data_dir": folder, "image_size": 8, "batch_size": 4}
    values |= {"folds": count} | choices
    configs = [Config.model_validate(values | {"fold": fold}) for fold in range(count)]
    return [load_data(config, SilentDisplay()).test for config in configs]


@pytest.mark.parametrize(
    ("flags", "choices"),
    [
        ("", {}),
        ("--split-seed 3 --test-images-per-class 2", {"split_seed": 3, "test_images_per_class": 2}),
        ("--test-from training", {"test_from": "training"}),
    ],
)
def test_the_folds_are_those_of_a_training(check, tmp_path, flags, choices):
    """Class by class; what is tested in none is counted, and all folds together are judged."""
    fill(tmp_path / "d", FOLDED)
    code, found, _ = check("d", "--folds", "5", "--batch-size", "4", *flags.split())
    tests = folds_of_trainings(tmp_path / "d", 5, **choices)
    assert code == 0
    counts = dict(
        zip(tests[0].classes, zip(*(one.counts() for one in tests), strict=True), strict=True)
    )
    told = {one["name"]: tuple(one["test"]) for one in found["folds"]["classes"]}
    assert told == counts
    assert found["folds"]["test_images"] == [len(one) for one in tests]
    never = {one["name"]: one["never_tested"] for one in found["folds"]["classes"]}
    if not choices:
        assert never == {"ant": 0, "bee": 0, "frog": 0, "newt": 1}
        assert found["images"]["test"] == len(tests[0])
        notes, weak = "\n".join(texts(found, "note")), "\n".join(texts(found, "weak"))
        assert "not tested in each of the 5 folds: 'frog' in 4 (of 4 images)" in notes
        assert "tested in one of 5 folds, 9 to 10 in each (--split-seed 42)" in notes
        assert "no image of newt is tested; add images" in weak
        assert "few has 0; add 20 images of newt" in weak
        assert "medium has" in weak
        assert "many has" not in weak  # 30 in all, though 6 in a fold
        assert "--folds" not in weak


def test_groups_are_counted_and_stay_together(check, tmp_path):
    """Ten subjects of three pictures each: a fold has whole ones, and the table counts them."""
    for subject in range(10):
        for number in range(3):
            place = tmp_path / "d" / ("ant" if subject < 6 else "bee")
            place.mkdir(parents=True, exist_ok=True)
            save(place / f"s{subject}_{number}.png", noise(10 * subject + number, (8, 8, 3)))
    words = ["--folds", "2", "--batch-size", "4", "--group-pattern", "(s[0-9]*)_"]
    code, found, _ = check("d", *words)
    assert code == 0
    assert found["kept_together"] == {
        **{"count": 10, "by_class": {"ant": 6, "bee": 4}, "largest": "s0", "largest_images": 3}
    }
    assert [sum(one["test"]) for one in found["folds"]["classes"]] == [18, 12]
    assert all(count % 3 == 0 for one in found["folds"]["classes"] for count in one["test"])
    assert any(
        "of 10 groups, each tested in one fold as a whole" in text for text in texts(found, "note")
    )
    code, found, _ = check("d", *words[2:])
    assert found["folds"] is None
    assert any("each on one side of the split as a whole" in text for text in texts(found, "note"))
    code, found, _ = check("d", *words[:4], "--group-pattern", "(ant|bee)")
    assert code == 3
    assert "all images of a class are of one group" in found["conclusion"]


def test_a_copy_in_another_fold_is_on_another_side(check, tmp_path, capsys):
    """Whichever two of five folds they are tested in; two copies in one fold are not."""
    fill(tmp_path / "d", {"ant": 20, "bee": 20})
    for number in range(8):
        again = (tmp_path / "d" / "ant" / f"{number:03}.png").read_bytes()
        (tmp_path / "d" / "ant" / f"again{number}.png").write_bytes(again)
    _, found, _ = check("d", "--folds", "5", "--batch-size", "4")
    tests = folds_of_trainings(tmp_path / "d", 5)
    fold_of = {place.decode(): fold for fold, one in enumerate(tests) for place in one.places}
    pairs = [(f"ant/{n:03}.png", f"ant/again{n}.png") for n in range(8)]
    apart = {pair for pair in pairs if fold_of[pair[0]] != fold_of[pair[1]]}
    assert 0 < len(apart) < 8
    told = found["copies"]["two_parts"]
    assert {frozenset(one["files"]) for one in told} == set(map(frozenset, apart))
    for one in told:
        wanted = {f"fold {fold_of[file]}" for file in one["files"]}
        assert set(one["parts"]) == wanted


@pytest.mark.parametrize("flag", ["--folds 3", "--test-share 0.3"])
def test_images_with_a_test_of_their_own_are_not_divided(check, tmp_path, capsys, flag):
    """The check refuses what the training refuses."""
    for seed, part in enumerate(("train", "test")):
        fill(tmp_path / "d" / part, {"ant": 9, "bee": 9}, seed=seed)
    words = [*flag.split(), "--batch-size", "4"]
    code, found, _ = check("d", *words)
    assert code == 3
    assert f"{flag} divides images that have no test images of their own" in found["conclusion"]
    assert check("d", *words, "--test-from", "training")[0] == 0


def train_code(*words):
    """Return the exit code of the training that a check is for."""
    train = ["train", "--dataset", "folder", "--image-size", "8", "--quiet", *MODEL.split()]
    return main([*train, *map(str, words)])


def lacking_test(folder):
    """Make train/ and val/ alone."""
    fill(folder / "train", {"ant": 9, "bee": 9})
    fill(folder / "val", {"ant": 9, "bee": 9}, seed=1)


def lacking_train(folder):
    """Make test/ alone."""
    fill(folder / "test", {"ant": 9, "bee": 9})


def one_class(folder):
    """Make one class folder, with a broken file."""
    fill(folder, {"ant": 9})
    (folder / "ant" / "000.png").write_text("x")


def strange_class(folder):
    """Make a test/ with a class that train/ lacks."""
    fill(folder / "train", {"ant": 9, "bee": 9})
    fill(folder / "test", {"ant": 9, "wasp": 9}, seed=1)


def all_broken(folder):
    """Make a class of which no file can be read."""
    fill(folder, {"ant": 9, "bee": 9, "cat": 2})
    for path in (folder / "cat").iterdir():
        path.write_text("x")


def empty_test(folder):
    """Make a test/ whose class folders are empty."""
    fill(folder / "train", {"ant": 9, "bee": 9})
    fill(folder / "test", {"ant": 0, "bee": 0}, seed=1)


def nothing_readable(folder):
    """Make classes of broken files alone."""
    fill(folder, {"ant": 2, "bee": 2})
    for path in folder.rglob("*.png"):
        path.write_text("x")


def one_broken(folder):
    """Make classes with one broken file."""
    fill(folder, {"ant": 20, "bee": 20})
    (folder / "ant" / "000.png").write_text("x")


def sound(folder):
    """Make a folder without a fault."""
    fill(folder, {"ant": 20, "bee": 20})


def test_the_next_command_is_one_that_starts(check, tmp_path):
    """It repeats the flags of the check, and leaves out what cannot be read."""
    fill(tmp_path / "d", {"ant": 30, "bee": 30, "empty": 0})
    (tmp_path / "d" / "ant" / "000.png").write_text("x")
    code, found, _ = check("d", "--batch-size", "4")
    assert code == 3
    size = "--batch-size 4 --image-size 8"
    words = shlex.split(found["next"][0]["command"])
    assert set(words) == {*shlex.split(f"lmsm train --dataset d {size} --skip-unreadable")}
    code, found, _ = check("d", "--batch-size", "4", "--skip-unreadable")
    assert (code, found["files"]["empty_classes"]) == (0, ["empty"])
    assert [one["name"] for one in found["classes"]] == ["bee", "ant"]
    study, train = (step["command"] for step in found["next"])
    assert study.startswith("lmsm study d ")
    assert train.startswith("lmsm train --dataset d ")
    assert len(check("d", "--folds", "4", "--skip-unreadable")[1]["next"]) == 1


@pytest.mark.parametrize(
    ("make", "told", "skip"),
    [
        (lacking_test, "d/test", []),
        (lacking_train, "d/train", []),
        (one_class, "one class folder, 'ant'", ["--skip-unreadable"]),
        (strange_class, "lacks: wasp", []),
        (all_broken, "no image of cat can be read", ["--skip-unreadable"]),
        (empty_test, "d/test holds no images", []),
        (nothing_readable, "4 image files cannot be read", []),
        (nothing_readable, "no image of ant, bee can be read", ["--skip-unreadable"]),
        (one_broken, "1 image file cannot be read", []),
        (one_broken, None, ["--skip-unreadable"]),
        (sound, None, []),
    ],
)
def test_a_training_starts_where_the_check_says_so(check, tmp_path, capsys, make, told, skip):
    """The exit code is 3 exactly where the training has one too, and the reason is told."""
    make(tmp_path / "d")
    code, found, said = check("d", "--batch-size", "4", *skip)
    started = train_code("--data-dir", "d", "--batch-size", "4", *skip) == 0
    assert (code == 0) == started == found["can_start"]
    assert code in (0, 3)
    assert (told is None) == started
    assert told is None or told in "\n".join([*texts(found, "mend"), *texts(found, "weak")])
    assert "Traceback" not in said


def test_too_large_a_batch_forbids_a_training_and_hides_no_split(check, tmp_path):
    """The counts are those after the split, and the largest possible batch is named."""
    fill(tmp_path / "d", {"ant": 20, "bee": 10})
    code, found, _ = check("d", "--batch-size", "64")
    assert code == 3
    # a fifth is 4 and 2; a tenth of the other 16 and 8 is 2 and 1
    assert found["images"] == {"training": 21, "validation": 3, "test": 6}
    assert "take --batch-size 21 or less" in texts(found, "mend")[0]


@pytest.mark.parametrize("parts", [("train",), ("test",), ("",)], ids=lambda parts: str(parts))
def test_what_lacks_a_part_or_a_class_has_no_fault_by_a_default(check, tmp_path, parts):
    """Only what is missing is wrong; a batch is too large where somebody asked for it."""
    for part in parts:
        fill(tmp_path / "p" / part, {"ant": 8, "bee": 8} if part else {"ant": 8})
    code, found, _ = check("p")
    (fault,) = texts(found, "mend")
    assert code == 3
    assert "there is no folder" in fault or "holds one class folder" in fault
    _, found, _ = check("p", "--batch-size", "128")
    asked = [text for text in texts(found, "mend") if text.startswith("batch_size is 128")]
    assert len(asked) == ("test" not in parts)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_list_that_lacks_a_part_has_no_fault_by_a_default(check, tmp_path, split):
    """As it is with class folders."""
    fill(tmp_path, {"ant": 8, "bee": 8})
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.png"))
    rows = [f"{file},{file.parent},{split}\n" for file in files]
    (tmp_path / "l.csv").write_text("path,label,split\n" + "".join(rows))
    (fault,) = texts(check("l.csv")[1], "mend")
    assert fault.startswith(f"l.csv names {split} images, and no ")


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("highest", [4095, 40_000])
def test_deep_images_that_are_dark_in_all_parts_are_told_each_time(check, tmp_path, highest, bands):
    """By the check and by a training, decoded or from the cache; one bright picture is enough."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for place in range(8):
            folder = tmp_path / "d" / part / "ab"[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(300, 4000, (8, 8, bands))
            pixels[0, 0] = highest if (part, place) == ("test", 5) else 4000
            (folder / f"{place}.png").write_bytes(png(pixels))
    fact = "no level of 16 16-bit images is above 4,095 of 65,535, so they are read as dark; "
    choices = {"image_size": 8, "batch_size": 2, "validation": 0.0}
    config = Config(dataset="folder", data_dir=tmp_path / "d", **choices)
    for _ in range(2):
        found = [text for text in texts(check("d")[1], "weak") if "16-bit" in text]
        load_data(config, display := SilentDisplay())
        told = [text for text in display.warned if "16-bit" in text]
        assert [text.startswith(fact) for text in found] == [True] * (highest == 4095)
        assert told == found


def test_a_published_set_is_checked_by_its_name(check):
    """The digits' counts are scikit-learn's; nothing is said of files, which there are not."""
    code, found, _ = check("digits", "--imbalance", "exp", "--factor", "0.05", "--batch-size", "32")
    assert (code, found["files"], found["place"]) == (0, None, None)
    assert found["images"]["test"] == 599
    assert [one["training"] + one["validation"] for one in found["classes"]] == [
        int(119.8 * 0.05 ** (c / 9)) for c in range(10)
    ]
    assert [one["group"] for one in found["classes"]] == [
        *["many"] * 3, *["medium"] * 4, *["few"] * 3
    ]  # fmt: skip


def test_what_is_missing_is_told_and_not_downloaded(check, tmp_path):
    """A published set that is not there, and a name that is none, end at once with exit code 3."""
    code, found, said = check("mnist", "--data-dir", tmp_path / "empty")
    assert (code, found) == (3, None)
    assert "`lmsm train --dataset mnist` downloads it" in " ".join(said.split())
    assert not (tmp_path / "empty").exists()
    code, _, said = check("photo")
    assert code == 3
    assert "there is no folder or list photo, and no data set of this name" in " ".join(
        said.split()
    )
    fill(tmp_path / "d", {"ant": 5, "bee": 5})
    assert check("d", "--data-dir", "d")[0] == 2


def test_the_tables_say_what_the_document_says(check, tmp_path, capsys, monkeypatch):
    """On a page of 80 columns each class, unreadable file, copy and finding is there."""
    folder = make_messy(tmp_path)
    _, found, _ = check(folder)
    monkeypatch.setenv("COLUMNS", "4000")
    assert main(["data", str(folder), "--image-size", "8", "--quiet"]) == 3
    shown = capsys.readouterr().out
    for one in found["classes"]:
        row = next(line for line in shown.splitlines() if line.startswith(f"  {one['name']} "))
        assert row.split()[-3:] == [str(one[part]) for part in PARTS]
    for one in found["files"]["unreadable"]:
        assert any(one["file"] in line and one["reason"] in line for line in shown.splitlines())
    for one in found["copies"]["two_parts"]:
        sides = zip(one["files"], one["parts"], strict=True)
        assert " = ".join(f"{file} ({part})" for file, part in sides) in shown
    for one in found["findings"]:
        assert f"{one['level']}  {one['text']}" in shown
    steps = len(found["next"])
    assert shown.rstrip().splitlines()[-1 - steps] == found["conclusion"]
    assert "image_size  8" in shown


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_plot_is_drawn(tmp_path, monkeypatch, ending):
    """The picture is of the kind that its name says, also where a class has no image."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "d", {"ant": 20, "bee": 9, "$x$": 1, "none": 0})
    words = ["data", "d", "--image-size", "8", "--plot", f"out/classes.{ending}", "--quiet"]
    assert main(words) == 3
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert Path(f"out/classes.{ending}").read_bytes().startswith(start)


def test_without_an_image_there_is_no_plot(tmp_path, monkeypatch, capsys):
    """Where no image can be read a warning says that nothing is drawn."""
    monkeypatch.chdir(tmp_path)
    nothing_readable(tmp_path / "d")
    assert main(["data", "d", "--plot", "classes.png", "--quiet"]) == 3
    assert "no image can be read: classes.png is not drawn" in capsys.readouterr().err
    assert not Path("classes.png").exists()


def test_a_plot_of_another_kind_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys):
    """The endings that are drawn are named."""
    monkeypatch.chdir(tmp_path)
    assert main(["data", "digits", "--plot", "classes.bmp"]) == 2
    assert "end the name in .png, .pdf, .svg" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["cat.png", "./cat.png", "link.png"])
def test_a_plot_replaces_no_image_of_a_list(tmp_path, monkeypatch, capsys, name):
    """Neither by its own name nor by that of a link to it; a picture of before is replaced."""
    monkeypatch.chdir(tmp_path)
    rows = ["cat.png,cat", *(f"{label}{n}.png,{label}" for label in "cd" for n in range(9))]
    for number, row in enumerate(rows):
        save(Path(row.partition(",")[0]), noise(number, (8, 8, 3)))
    Path("link.png").symlink_to("cat.png")
    Path("list.csv").write_text("path,label\n" + "\n".join(rows))
    before = Path("cat.png").read_bytes()
    assert main(["data", "list.csv", "--plot", name, "--quiet"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"cannot write {name.removeprefix('./')}: a picture is there" in said
    assert Path("cat.png").read_bytes() == before
    for _ in range(2):
        assert main(["data", "list.csv", "--image-size", "8", "--plot", "old.png", "--quiet"]) == 0


def test_the_samples_are_the_classes_own(tmp_path):
    """A class's row of the picture holds images of its colour alone; missing ones are white."""
    import torch

    from lmsm_cli.data.check import ClassImages
    from lmsm_cli.reports.data_plot import _mosaic
    from tests.conftest import image_set

    images = torch.zeros(10, 16, 16, 3, dtype=torch.uint8)
    labels = torch.tensor([0, 1] * 4 + [1, 1])
    images[labels == 1] = 200
    classes = [ClassImages(name, None, {}) for name in ("b", "a")]
    sheet = _mosaic(classes, image_set(images, labels, ("a", "b")))
    assert sheet.shape == (2 * 17, 6 * 17, 3)
    assert set(np.unique(sheet[:16])) == {200, 255}
    assert set(np.unique(sheet[17:33])) == {0, 255}
    assert (sheet[17:33] == 0).sum() == 4 * 16 * 16 * 3


def test_a_list_is_checked_as_class_folders_are(check, tmp_path):
    """The same counts by class and part, and each bad line as a fault; exit code 3 for those."""
    fill(tmp_path / "d", {"ant": 20, "bee": 20})
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "d").rglob("*.png"))
    lines = [f"{file},{file.parent.name}" for file in files]
    (tmp_path / "d.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    expected, found = check("d")[1], check("d.csv")[1]
    assert found["classes"] == expected["classes"]
    (tmp_path / "d.csv").write_text("\n".join(["path,label", *lines, "gone.png,ant"]) + "\n")
    code, document, _ = check("d.csv")
    assert code == 3
    assert "a file that is not there, in 1 line: line 42 (gone.png)" in json.dumps(document)
