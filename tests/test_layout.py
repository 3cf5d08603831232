"""What layout.py promises: which of a user's folders are read, and what is reported."""

import unicodedata

import pytest

from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
from lmsm_cli.data.sources import load_folder, load_own_folder
from lmsm_cli.errors import DataError
from tests.conftest import SilentDisplay, noise, save

OPTIONS = FolderOptions(8)


def fill(folder, per_class, *, seed=0):
    """Write noise images, so many for each class; no two are alike."""
    for label, (name, count) in enumerate(per_class.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            save(folder / name / f"{number:03}.png", noise(10_000 * seed + 100 * label + number))


def told(data_dir, **options):
    """Return what was read of a folder and the warnings, as one text."""
    display = SilentDisplay()
    found = load_own_folder(data_dir, FolderOptions(8, **options), display)
    return found, "\n".join(display.warned)


def test_classes_are_of_the_first_level_and_images_at_any_depth(tmp_path):
    """Images in folders below a class are that class's; the counts are those of what is there."""
    fill(tmp_path, {"ant": 10, "bee": 10})
    fill(tmp_path / "ant", {"day": 20, "night": 20}, seed=1)
    save(tmp_path / "bee" / "a" / "b" / "c" / "deep.PNG", noise(77))
    listing = list_class_folders(tmp_path)
    assert listing.classes == ("ant", "bee")
    assert listing.counts() == [50, 11]
    assert list(listing.files[:10]) == [f"ant/{number:03}.png" for number in range(10)]
    assert listing.files[-1] == "bee/a/b/c/deep.PNG"


def test_what_is_not_read_is_counted_by_ending_and_named(tmp_path):
    """Foreign files, loose images and links out are each told; hidden names are not."""
    fill(tmp_path / "data", {"ant": 4, "bee": 4})
    foreign = "ant/a.txt ant/b.TXT bee/sub/c.heic bee/LICENSE README.md .hidden/x.txt bee/.DS_Store"
    for name in foreign.split():
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).touch()
    save(tmp_path / "data" / "loose.png", noise(5))
    fill(tmp_path, {"elsewhere": 2}, seed=2)
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    found, text = told(tmp_path / "data")
    assert found.training.classes == ("ant", "bee")
    root = tmp_path / "data"
    assert (
        f"{root}: skipped 5 files not named as images: 2 .txt (ant/a.txt, ant/b.TXT), "
        "1 .heic (bee/sub/c.heic), 1 .md (README.md), 1 without an ending (bee/LICENSE)" in text
    )
    assert f"{root}: skipped 1 image in no class folder: loose.png" in text
    assert f"{root}: skipped 1 link out of the folder: cat; --follow-links reads what" in text
    found, text = told(tmp_path / "data", follow_links=True)
    assert found.training.classes == ("ant", "bee", "cat")
    assert "lead to" not in text


def test_an_empty_file_is_told_or_refused(tmp_path):
    """One whose ending others' files have too is left out and named; an empty PNG is refused."""
    fill(tmp_path / "data", {"ant": 4, "bee": 4})
    for name in ("bee/scan.ppm", "ant/run.fit"):
        (tmp_path / "data" / name).touch()
    found, text = told(tmp_path / "data")
    assert len(found.training) + len(found.test) == 8
    assert f"{tmp_path / 'data'}: skipped 2 empty files: ant/run.fit, bee/scan.ppm" in text
    (tmp_path / "data" / "bee" / "gone.png").touch()
    with pytest.raises(DataError, match=r"gone\.png is not an image: it is empty"):
        told(tmp_path / "data")


def test_links_that_stay_in_the_data_folder_are_read(tmp_path):
    """A pool that train/ and test/ link to is inside, and the folder itself may be a link."""
    for number in range(9):
        pooled = save(tmp_path / "data" / "pool" / f"{number}.png", noise(number))
        part, name = ("test", "train", "train")[number % 3], "ab"[number % 2]
        (tmp_path / "data" / part / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / part / name / pooled.name).symlink_to(f"../../pool/{pooled.name}")
    (tmp_path / "given").symlink_to("data")
    found, text = told(tmp_path / "given")
    assert (len(found.training), len(found.test)) == (6, 3)
    assert "lead to" not in text
    with pytest.raises(
        DataError, match=r"hold no images; 3 links out of it left out: .*--follow-links"
    ):
        load_folder(tmp_path / "data" / "test", options=OPTIONS)


def test_a_part_that_is_a_link_out_is_read_on_request(tmp_path):
    """test/ that leads elsewhere is refused with the flag named, and read with it."""
    fill(tmp_path / "data" / "train", {"ant": 2, "bee": 2})
    fill(tmp_path / "else", {"ant": 1, "bee": 1}, seed=1)
    (tmp_path / "data" / "test").symlink_to(tmp_path / "else")
    with pytest.raises(DataError, match=r"test is a link out of .*data: --follow-links reads"):
        told(tmp_path / "data")
    assert told(tmp_path / "data", follow_links=True)[0].test.counts() == [1, 1]


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Train", "VALID", "Test"), ("training", "validation", "testing")],
)
def test_validation_images_have_a_folder_of_their_own(tmp_path, names):
    """val/, valid/ or validation/ beside train/, in whatever case, are the validation images."""
    for number, name in enumerate(names):
        fill(tmp_path / name, {"ant": 3 + number, "bee": 2}, seed=number)
    found, text = told(tmp_path)
    assert [part.counts() for part in found[:3]] == [[3, 2], [4, 2], [5, 2]]
    assert text == ""


def test_two_folders_for_one_part_are_refused(tmp_path):
    """val/ and valid/ cannot both be the validation images."""
    for name in ("train", "test", "val", "valid"):
        fill(tmp_path / name, {"ant": 2, "bee": 2})
    with pytest.raises(DataError, match="two folders of validation images, val/ and valid/"):
        told(tmp_path)


@pytest.mark.parametrize(
    ("there", "way_out"),
    [
        (
            ["train"],
            "there is no folder .*test; expected .*, or move the class folders of train/ up, .*, "
            "or rename train/ if it is a class",
        ),
        (["train", "val"], "test/<class>/.*, or rename val/ to test/, or move"),
        (["val", "test"], "there is no folder .*train; expected"),
    ],
)
def test_a_part_that_is_missing_is_asked_for(tmp_path, there, way_out):
    """train/ and test/ must both be there; the message says what can be renamed or moved."""
    for name in there:
        fill(tmp_path / name, {"ant": 2, "bee": 2})
    with pytest.raises(DataError, match=way_out):
        told(tmp_path)


def test_a_test_folder_of_loose_images_is_told(tmp_path):
    """test/ without class folders is there, and is not called missing."""
    fill(tmp_path, {"test": 2})
    fill(tmp_path / "train", {"ant": 2, "bee": 2}, seed=1)
    with pytest.raises(DataError, match="test holds no class folders; expected"):
        told(tmp_path)


def test_what_lies_beside_train_and_test_is_told(tmp_path):
    """A class folder beside train/ is not read, and not passed over in silence."""
    for name in ("train", "test"):
        fill(tmp_path / name, {"ant": 2, "bee": 2}, seed=len(name))
    fill(tmp_path, {"cat": 3}, seed=7)
    (tmp_path / "labels.csv").touch()
    assert "2 names left out beside test/ and train/: cat, labels.csv" in told(tmp_path)[1]


def test_a_class_may_be_called_validation(tmp_path):
    """Without train/ or test/ every folder is a class, which is told of such names."""
    fill(tmp_path, {"Val": 5, "bee": 5})
    found, text = told(tmp_path)
    assert found.training.classes == ("Val", "bee")
    assert "Val taken for a class, since there is no train/" in text


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_the_test_and_validation_may_lack_classes(tmp_path, empty):
    """A class that has no test images, or an empty folder, is told; training goes on."""
    fill(tmp_path / "train", {"ant": 4, "bee": 4, "cat": 4})
    fill(tmp_path / "val", {"bee": 2}, seed=1)
    fill(tmp_path / "test", {"ant": 2, "cat": 2}, seed=2)
    if empty:
        (tmp_path / "test" / "bee").mkdir()
        (tmp_path / "val" / "ant").mkdir()
    found, text = told(tmp_path)
    assert [part.counts() for part in found[:3]] == [[4, 4, 4], [0, 2, 0], [2, 0, 2]]
    assert "there is no test image of 1 of 3 classes (bee)" in text
    assert "there is no validation image of 2 of 3 classes (ant, cat)" in text


def test_every_fault_of_a_folder_is_told_at_once(tmp_path):
    """Empty classes, classes of the test alone and unreadable files of both parts come together."""
    fill(tmp_path / "train", {"ant": 12, "bee": 2, "elk": 0, "fox": 0})
    fill(tmp_path / "test", {"ant": 2, "yeti": 1}, seed=1)
    for number in range(11):
        (tmp_path / "train" / "ant" / f"{number:03}.png").write_text("x")
    (tmp_path / "test" / "ant" / "001.png").write_text("")
    with pytest.raises(DataError) as error:
        told(tmp_path)
    text = str(error.value)
    assert "2 class folders of" in text
    assert "hold no images: 'elk', 'fox'" in text
    assert "train lacks: yeti" in text
    assert "11 of the 14 images of" in text
    assert text.count("is not an image that can be read") == 10
    assert "and 1 more" in text
    assert "001.png is not an image: it is empty" in text


def test_unreadable_images_are_skipped_on_request(tmp_path):
    """The counts are of what is left; a class that keeps no image is a fault all the same."""
    fill(tmp_path, {"ant": 10, "bee": 10})
    for number in range(5):
        (tmp_path / "bee" / f"{number:03}.png").write_text("x")
    found, text = told(tmp_path, skip_unreadable=True)
    assert (found.training.counts(), found.test.counts()) == ([8, 4], [2, 1])
    assert "skipped, to be replaced or removed: 5 of the 20 images" in text
    assert "--skip-unreadable" not in text
    for number in range(5, 10):
        (tmp_path / "bee" / f"{number:03}.png").write_text("x")
    with pytest.raises(DataError, match=r"bee holds no images"):
        told(tmp_path, skip_unreadable=True)


def test_an_empty_class_is_a_fault_that_names_the_flag_which_leaves_it_out(tmp_path):
    """All faults come in lines of their own; with the flag the other classes are labelled anew."""
    fill(tmp_path, {"ant": 10, "bee": 0, "cat": 10})
    (tmp_path / "ant" / "003.png").write_text("x")
    with pytest.raises(DataError) as error:
        told(tmp_path)
    empty, broken = str(error.value).split("\n")
    assert empty == (
        f"the class folder {tmp_path / 'bee'} holds no images; add some, or remove it, "
        "or go on without it: --skip-unreadable"
    )
    assert broken.endswith("go on without it: --skip-unreadable")
    found, text = told(tmp_path, skip_unreadable=True)
    assert found.training.classes == found.test.classes == ("ant", "cat")
    assert (found.training.counts(), found.test.counts()) == ([7, 8], [2, 2])
    assert f"skipped: the class folder {tmp_path / 'bee'} holds no images" in text


def test_runs_are_no_class(tmp_path):
    """By the files of a run, at any depth; one of them alone is no run, nor is an empty folder."""
    fill(tmp_path, {"ant": 5, "bee": 5, "old": 0, "runs": 0})
    for folder in ("runs/one", "runs/all/two"):
        fill(tmp_path / folder, {"plots": 3})
        for name in ("config.yaml", "status.json"):
            (tmp_path / folder / name).write_text("{}")
    (tmp_path / "ant" / "config.yaml").write_text("{}")
    with pytest.raises(DataError) as error:
        told(tmp_path, skip_unreadable=True)
    fact = f"the class folder {tmp_path / 'runs'} holds runs of lmsm"
    assert str(error.value) == f"{fact}; move these elsewhere"
    (tmp_path / "runs").rename(tmp_path / ".runs")
    assert told(tmp_path, skip_unreadable=True)[0].training.classes == ("ant", "bee")


def test_runs_are_no_test_images(tmp_path):
    """Their plots below a class of test/ would be scored as images of it."""
    for number, part in enumerate(("train", "test")):
        fill(tmp_path / part, {"ant": 5, "bee": 5}, seed=number)
    run = tmp_path / "test" / "ant" / "runs" / "one"
    fill(run, {"plots": 3}, seed=2)
    for name in ("config.yaml", "status.json"):
        (run / name).write_text("{}")
    with pytest.raises(DataError, match=r"ant holds runs of lmsm; move these elsewhere$"):
        told(tmp_path)


def test_no_flag_leaves_out_what_was_meant_to_be_a_class(tmp_path):
    """A class of broken files alone, a class with test images, and the one but last class stay."""
    fill(tmp_path / "train", {"ant": 5, "bee": 5, "cat": 0})
    fill(tmp_path / "test", {"ant": 5, "bee": 5, "cat": 5}, seed=1)
    with pytest.raises(DataError, match="train lacks: cat"):
        told(tmp_path, skip_unreadable=True)
    fill(tmp_path / "two", {"ant": 5, "bee": 0})
    with pytest.raises(DataError, match=r"bee holds no images; add some, or remove it$"):
        told(tmp_path / "two", skip_unreadable=True)
    fill(tmp_path / "broken", {"ant": 5, "bee": 5, "cat": 2})
    for path in (tmp_path / "broken" / "cat").iterdir():
        path.write_text("x")
    for skip in (False, True):
        with pytest.raises(DataError, match="cat") as error:
            told(tmp_path / "broken", skip_unreadable=skip)
        assert "--skip-unreadable" not in str(error.value)


def test_one_class_is_too_few(tmp_path):
    """To train on one class is refused before any image is read."""
    fill(tmp_path, {"ant": 1})
    (tmp_path / "ant" / "broken.png").touch()
    with pytest.raises(
        DataError, match="holds one class folder, 'ant': to tell classes apart takes at least two"
    ):
        told(tmp_path)


ACUTE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


def test_names_that_look_the_same_are_told(tmp_path):
    """Case, outer blanks and forms of Unicode, which a person overlooks, tell classes apart."""
    unlike = ["x2", "x\N{SUPERSCRIPT TWO}"]
    names = ["Cat", "cat", ACUTE, unicodedata.normalize("NFD", ACUTE), "dog ", "dog", *unlike]
    fill(tmp_path, dict.fromkeys(names, 2))
    text = told(tmp_path)[1]
    assert "'Cat' and 'cat' look the same, and are classes of their own" in text
    assert "'dog' and 'dog ' look the same" in text
    assert text.count("look the same") == 3


def test_the_test_is_matched_by_what_a_person_reads(tmp_path):
    """cat/ in the test is Cat/ of the training, which is told, unless two could be meant."""
    fill(tmp_path / "train", {"Cat": 2, ACUTE: 2})
    fill(tmp_path / "test", {"cat ": 3, unicodedata.normalize("NFD", ACUTE): 4}, seed=1)
    found, text = told(tmp_path)
    assert found.test.counts() == [3, 4]
    assert "'cat ' is taken for 'Cat'" in text
    display = SilentDisplay()
    images = load_folder(
        tmp_path / "test", options=OPTIONS, classes=[ACUTE, "CAT"], display=display
    )
    assert images.counts() == [4, 3]
    assert any("'cat ' is taken for 'CAT'" in one for one in display.warned)
    with pytest.raises(DataError, match="none of the classes: 'cat '"):
        load_folder(tmp_path / "test", options=OPTIONS, classes=[ACUTE, "CAT", "Cat"])


def test_names_that_are_shown_alike_are_refused(tmp_path):
    """A control character and its spelling would be one class name."""
    fill(tmp_path, {"a\x1b": 2, "a\\x1b": 2})
    with pytest.raises(DataError, match="shown with one name"):
        told(tmp_path)


def test_other_images_may_lack_classes_which_is_told(tmp_path):
    """`eval --images` takes a class that is missing or empty, and says what the means are over."""
    fill(tmp_path, {"ant": 2, "bee": 0})
    display = SilentDisplay()
    images = load_folder(tmp_path, options=OPTIONS, classes=["ant", "bee", "cat"], display=display)
    assert images.counts() == [2, 0, 0]
    assert display.warned == [
        "there is no image of 2 of 3 classes (bee, cat): "
        "means over classes are over those that have some"
    ]
