"""What lists.py and list_layout.py promise: which images a list names, and which lines are told."""

import csv
import os
import re

import pytest

from lmsm_cli.config import Config
from lmsm_cli.config.data_path import list_names
from lmsm_cli.data import decoding
from lmsm_cli.data import lists as lists_module
from lmsm_cli.data.class_folders import FolderOptions
from lmsm_cli.data.facts import facts_of
from lmsm_cli.data.lists import ImageLists
from lmsm_cli.data.sources import load_own_folder, load_parts, own_layout
from lmsm_cli.data.splits import load_training
from lmsm_cli.errors import DataError, LmsmError
from tests.conftest import SilentDisplay, noise, save

CLASSES = {"ant": 12, "bee": 9, "cat": 10}
SPLITS = ("train", "val", "test")


def fill(root, *, seed=0):
    """Write noise images in class folders; return their names and labels."""
    named = []
    for label, (name, count) in enumerate(CLASSES.items()):
        for number in range(count):
            file = f"{name}/{number:03}.png"
            save(root / file, noise(10_000 * seed + 100 * label + number))
            named.append((file, name))
    return named


@pytest.fixture
def flat(tmp_path):
    """Class folders without parts; gives their folder, and the name and label of each image."""
    return tmp_path / "photos", fill(tmp_path / "photos")


@pytest.fixture
def parted(tmp_path):
    """Class folders in train/, val/ and test/; gives their folder, and name, label and part."""
    root = tmp_path / "photos"
    rows = [
        (f"{part}/{file}", label, part)
        for seed, part in enumerate(SPLITS)
        for file, label in fill(root / part, seed=seed)
    ]
    return root, rows


def write(path, rows, *, header=None, delimiter=",", end="\n"):
    """Write a table, or with a blank as delimiter lines of path and label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        if delimiter == " ":
            file.write("".join(f"{' '.join(row)}{end}" for row in rows))
            return
        table = csv.writer(file, delimiter=delimiter, lineterminator=end)
        table.writerows([*([header] if header else []), *rows])


def read(path, data_dir=None, **more):
    """Return the images of lists, and the warnings."""
    display = SilentDisplay()
    options = options_of(path, **more)
    home = path if path.is_dir() else path.parent
    return load_own_folder(data_dir or home, options, display), "\n".join(display.warned)


def options_of(path, *, follow_links=False, skip_unreadable=False, **lists):
    """Return how lists are read."""
    names = tuple(list_names(path)) if path.is_dir() else None
    switches = {"follow_links": follow_links, "skip_unreadable": skip_unreadable}
    return FolderOptions(8, **switches, lists=ImageLists(path, names, **lists))


def layout(path, data_dir=None, **more):
    """Return the layout of lists, faults and all."""
    return own_layout(data_dir or path.parent, options_of(path, **more))


def same(one, other):
    """Check that two sets of own images are the same parts in the same order."""
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.digest() == theirs.digest()
            assert mine.digests.tolist() == theirs.digests.tolist()
            assert mine.labels.tolist() == theirs.labels.tolist()
            assert mine.classes == theirs.classes
            assert mine.images.equal(theirs.images)
            assert (mine.mean, mine.std) == (theirs.mean, theirs.std)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.csv", {"header": ("path", "label")}),
        ("a.csv", {"header": ("Image Path", "Class"), "delimiter": ";", "end": "\r\n"}),
        ("a.tsv", {"header": ("file_name", "category"), "delimiter": "\t"}),
        ("a.txt", {"delimiter": " "}),
        ("a.txt", {"delimiter": " ", "end": "\r\n"}),
        ("a.txt", {"header": ("path", "label"), "delimiter": "\t"}),
        ("a", {"delimiter": " "}),
    ],
)
def test_a_list_without_parts_gives_the_images_of_class_folders(flat, name, form):
    """Any form, in whatever order of lines: the same images, split alike, in the same order."""
    root, rows = flat
    write(root / name, rows[::-1], **form)
    found, told = read(root / name)
    same(found, load_own_folder(root, FolderOptions(8)))
    assert (len(found.training), len(found.test), told) == (25, 6, "")


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "VALID", "Testing")])
def test_a_column_of_splits_gives_the_parts_of_class_folders(parted, words):
    """Upper and lower case are the same, and so are the usual words."""
    root, rows = parted
    named = dict(zip(SPLITS, words, strict=True))
    write(
        root / "a.csv",
        [(named[part], file, label) for file, label, part in rows],
        header=("split", "path", "label"),
    )
    found, _ = read(root / "a.csv")
    same(found, load_own_folder(root, FolderOptions(8)))
    assert found.validation is not None


def test_lists_of_parts_are_named_or_found_in_their_folder(parted, tmp_path):
    """ImageNet-LT's form: a file for each part, beside the images or in a folder of lists."""
    root, rows = parted
    expected = load_own_folder(root, FolderOptions(8))
    (tmp_path / "lists").mkdir()
    for home in (root, tmp_path / "lists"):
        for part in SPLITS:
            own = [(file, label) for file, label, its in rows if its == part]
            write(home / f"Pets_LT_{part}.txt", own, delimiter=" ")
    found, _ = read(
        root / "Pets_LT_train.txt",
        test=root / "Pets_LT_test.txt",
        validation=root / "Pets_LT_val.txt",
    )
    same(found, expected)
    same(read(tmp_path / "lists", data_dir=root)[0], expected)
    (root / "Pets_LT_val.txt").unlink()
    with pytest.raises(LmsmError, match="needs a test_list beside it"):
        read(root / "Pets_LT_train.txt", validation=root / "Pets_LT_val.txt")
    without, _ = read(root / "Pets_LT_train.txt", test=root / "Pets_LT_test.txt")
    assert without.validation is None


def test_metadata_in_the_folders_of_the_parts(parted):
    """The layout of Hugging Face: metadata.csv in each, its file_name relative to its folder."""
    root, rows = parted
    expected = load_own_folder(root, FolderOptions(8))
    for part in SPLITS:
        own = [
            (file.removeprefix(f"{part}/"), label, "x") for file, label, its in rows if its == part
        ]
        write(root / part / "metadata.csv", own, header=("file_name", "label", "text"))
    same(read(root)[0], expected)


def test_one_metadata_file_tells_the_parts_by_their_folders(parted):
    """Where there is no split column, all images lie in train/, val/ or test/, and that is said."""
    root, rows = parted
    expected = load_own_folder(root, FolderOptions(8))
    write(root / "metadata.csv", [row[:2] for row in rows], header=("file_name", "label"))
    found, told = read(root)
    same(found, expected)
    assert "what an image is for is told by its folder" in told


def test_numbers_are_classes_in_their_order_and_take_names_from_a_file(flat):
    """10 comes after 9; a file of names, by line or by number, makes the classes of the folders."""
    root, rows = flat
    number = {"ant": 9, "bee": 10, "cat": 200}
    write(root / "a.txt", [(file, str(number[label])) for file, label in rows], delimiter=" ")
    found, _ = read(root / "a.txt")
    assert found.training.classes == ("9", "10", "200")
    names = [f"other {place}" for place in range(201)]
    for name, place in number.items():
        names[place] = name
    (root / "names.txt").write_text("\n".join(names) + "\n")
    write(root / "names.csv", [(str(n), name) for name, n in number.items()], header=("id", "name"))
    for file in ("names.txt", "names.csv"):
        found, _ = read(root / "a.txt", class_names=root / file)
        same(found, load_own_folder(root, FolderOptions(8)))


def test_comments_blank_lines_quotes_and_a_byte_order_mark(tmp_path):
    """What spreadsheets and people write: quoted commas are part of a name, the rest nothing."""
    for number in range(4):
        save(tmp_path / "a, b" / f"{number}.png", noise(number))
    rows = [f'"a, b/{number}.png", "{"x" if number < 2 else "y, z"}"' for number in range(4)]
    text = '\ufeff# pets, "2026\n\npath,label\n' + "\n,\n".join(rows) + "\n\n"
    (tmp_path / "a.csv").write_bytes(text.replace("\n", "\r\n").encode())
    found, _ = read(tmp_path / "a.csv")
    assert found.training.classes == ("x", "y, z")
    assert len(found.training) + len(found.test) == 4


@pytest.mark.parametrize("header", [("label", "path"), ("path", "label")])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_below_a_header_no_row_is_a_comment(tmp_path, header, name):
    """Files and classes may begin with `#`, as those of a chat or of colours do; all are read."""
    rows = []
    for label in ("#cat", "#dog"):
        for number in range(3):
            save(tmp_path / f"#{label[1:]}{number}.png", noise(len(rows)))
            row = {"label": label, "path": f"#{label[1:]}{number}.png"}
            rows.append([row[column] for column in header])
    delimiter = "\t" if name == "a.tsv" else ","
    write(tmp_path / name, rows, header=header, delimiter=delimiter)
    (listing,) = layout(tmp_path / name).listings.values()
    assert listing.classes == ("#cat", "#dog")
    assert sorted(listing.files) == sorted(file.name for file in tmp_path.glob("*.png"))


def test_a_comment_below_a_header_is_told(tmp_path):
    """It is a row that lacks a value, and is named with its line, counted with those above."""
    for number in range(4):
        save(tmp_path / f"{number}.png", noise(number))
    rows = [f"{number}.png,{'ab'[number % 2]}\n" for number in range(4)]
    (tmp_path / "a.csv").write_text("# pets\n\npath,label\n" + "".join(rows) + "# end\n")
    with pytest.raises(DataError, match=r"not the 2 values of the header, in 1 line: line 8 \("):
        read(tmp_path / "a.csv")


def test_a_line_that_goes_on_within_quotes_may_begin_as_a_comment(tmp_path):
    """It is a part of its cell, and the rows after it keep their numbers."""
    for number in range(4):
        save(tmp_path / f"{number}.png", noise(number))
    rows = ['0.png,a,"first\n# second"', "1.png,a,", "2.png,b,", "3.png,b,", "4.png,b,"]
    (tmp_path / "a.csv").write_text("path,label,note\n" + "\n".join(rows))
    with pytest.raises(DataError, match=r"not there, in 1 line: line 7 \(4\.png\)"):
        read(tmp_path / "a.csv")


def test_paths_may_hold_blanks_be_absolute_or_windows_own(tmp_path):
    """In lines the last word is the label; a file below the folder may be named from the root."""
    for number in range(2):
        for name in ("my cats", "dogs"):
            save(tmp_path / name / f"{number}.png", noise(hash(name) % 1000 + number))
    lines = ["my cats/0.png cat", r"my cats\1.png cat", f"{tmp_path}/dogs/0.png dog"]
    (tmp_path / "a.txt").write_text("\n".join([*lines, "./dogs/../dogs/1.png dog"]))
    (listing,) = layout(tmp_path / "a.txt").listings.values()
    assert listing.files == ("my cats/0.png", "my cats/1.png", "dogs/0.png", "dogs/1.png")


def test_a_label_after_a_tab_may_hold_blanks(tmp_path):
    """As it stands in tables that were saved as text."""
    for number in range(2):
        for name in ("my cats", "dogs"):
            save(tmp_path / name / f"{number}.png", noise(hash(name) % 1000 + number))
    lines = [
        "my cats/0.png\tbig cat",
        "my cats/1.png \t big cat",
        "dogs/0.png dog",
        "dogs/1.png\tdog",
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (listing,) = layout(tmp_path / "a.txt").listings.values()
    assert listing.classes == ("big cat", "dog")


@pytest.mark.parametrize("column", ["path", "label", "split", "group"])
def test_lines_without_a_header_have_no_columns(flat, column):
    """A column that is named all the same is told, not passed over: groups would be parted."""
    root, rows = flat
    (root / "a.txt").write_text("\n".join(f"{file} {label}" for file, label in rows))
    with pytest.raises(DataError, match=r"a\.txt has no header, and so no column 'patient'"):
        layout(root / "a.txt", **{f"{column}_column": "patient"})


def test_groups_stay_with_their_images(flat):
    """A column of groups is read for each image, through leaving out files too."""
    root, rows = flat
    write(
        root / "a.csv",
        [(file, label, f"of {file}") for file, label in rows[::-1]],
        header=("path", "label", "patient"),
    )
    (listing,) = layout(root / "a.csv", group_column="patient").listings.values()
    assert listing.groups == tuple(f"of {file}" for file in listing.files)
    fewer = listing.without({"ant/000.png", "cat/001.png"})
    assert fewer.groups == tuple(f"of {file}" for file in fewer.files)
    assert layout(root / "a.csv").listings["train"].groups == ()


HEADERS = {
    "path,label,label": r"'label' and 'label' stand twice for the label; rename one",
    "path,label,class": r"a\.csv:1: of the columns, 'label' and 'class' could each be meant for "
    "the label; name one with --label-column",
    "path,Image,label": "'path' and 'Image' could each be meant for the path; .* --path-column",
    "where,label": "none of the columns 'where', 'label' is known to hold the path: name it with",
    "path,what": "is known to hold the label: name it with --label-column",
    "path,label,split,subset": "'split' and 'subset' could each be meant",
}


@pytest.mark.parametrize(("header", "message"), HEADERS.items())
def test_columns_are_not_guessed(tmp_path, header, message):
    """Two columns that could be meant, or none, are named, with the flag that says which."""
    (tmp_path / "a.csv").write_text(f"{header}\n")
    with pytest.raises(DataError, match=message):
        layout(tmp_path / "a.csv")


def test_columns_can_be_named(flat):
    """A named column is taken whatever else could be meant; a misspelt one gives the nearest."""
    root, rows = flat
    write(
        root / "a.csv",
        [(file, "all", label, "test") for file, label in rows],
        header=("where", "label", "kind", "split"),
    )
    named = {"path_column": "where", "label_column": "kind"}
    with pytest.raises(DataError, match=r"no train images that are there: give them too"):
        read(root / "a.csv", **named)
    with pytest.raises(DataError, match=r"no column 'wher' \(did you mean 'where'\?\)"):
        read(root / "a.csv", path_column="wher")
    with pytest.raises(DataError, match=r"one column is named for two things"):
        read(root / "a.csv", **named, split_column="kind")
    write(root / "a.txt", rows, delimiter=" ")
    with pytest.raises(DataError, match=r"a\.txt has no header, and so no column 'where'"):
        read(root / "a.txt", path_column="where")


UNREADABLE = {
    "utf-16": ("path,label\n".encode("utf-16"), r"a\.csv is in UTF-16; save it as UTF-8"),
    "latin-1": ("path,label\nx,y\ncafé,z".encode("latin-1"), r"a\.csv:3: it is not in UTF-8"),
    "binary": (b"path,label\n\0\0", r"a\.csv:2: it holds a NUL byte, so it is no list"),
    "quotes": (b'path,label\na,b\n"c,d\ne,f\n', r"a\.csv:3: the quotes of this row are wrong"),
    "empty": (b"", r"a\.csv is empty: expected a header"),
    "header": (b"path,label\n", r"names no image that is there"),
    "huge": (b"path,label\n" + b"a" * 5000, "cannot read .*a.csv: it is larger than 4,096 bytes"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_list_is_refused(tmp_path, monkeypatch, kind):
    """Encoding, binary content, open quotes, nothing at all, and a size that no list has."""
    monkeypatch.setattr(lists_module, "LARGEST_LIST", 4096)
    content, message = UNREADABLE[kind]
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        layout(tmp_path / "a.csv")


def test_a_list_that_is_no_file_is_never_opened(tmp_path):
    """A pipe is not waited for, and a missing list is named."""
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv: it is no regular file|no regular file"):
        layout(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"there is no list .*b\.csv"):
        layout(tmp_path / "b.csv")


def test_every_bad_line_is_told_at_once(tmp_path):
    """One start names them all by list, line and name, and what would mend them."""
    root = tmp_path / "photos"
    fill(root)
    save(tmp_path / "out.png", noise(999))
    (root / "linked.png").symlink_to(tmp_path / "out.png")
    good = [f"ant/{n:03}.png,ant,train" for n in range(6)]
    good += [f"bee/{n:03}.png,bee,train" for n in range(6)]
    good += ["ant/009.png,ant,test", "bee/008.png,bee,test"]
    bad = {
        "gone.png,ant,train": r"a file that is not there, in 1 line: line 16 \(gone\.png\)",
        "cat,ant,train": r"a path that is no file, in 1 line: line 17 \(cat\)",
        "../out.png,ant,train": r"outside of the data folder.* line 18 \(\.\./out\.png\)",
        "linked.png,ant,train": r", line 19 \(linked\.png\); --follow-links reads them",
        "ant/000.png,bee,train": r"second label .*: line 20 \(ant/000\.png: 'bee', and 'ant' in l",
        "bee/001.png,bee,test": r"second split .* line 21 \(bee/001\.png: test, and train in l",
        "cat/001.png,cat,test": r"a test class without a training image, .* line 22 \('cat'\)",
        "cat/002.png,cat,dev": r"a split that is none of train, val and test.*: line 23 \('dev'\)",
        "cat/003.png,ant": r"not the 3 values of the header, in 1 line: line 24 \(2 values\)",
        "cat/004.png,,train": r"a value is lacking, in 1 line: line 25 \(no label\)",
    }
    (root / "a.csv").write_text("\n".join(["path,label,split", *good, *bad]) + "\n")
    with pytest.raises(DataError) as error:
        read(root / "a.csv")
    for message in bad.values():
        assert re.search(message, str(error.value)), message
    found = layout(root / "a.csv")  # the same as plain data
    assert len(found.faults) == 9
    assert found.listings["train"].counts() == [6, 6]
    assert found.listings["test"].counts() == [1, 1]


def test_bad_lines_of_plain_lists_and_names(flat):
    """Lines without a label, numbers without a name, and names that are no names are told."""
    root, _ = flat
    (root / "a.txt").write_text("ant/000.png\nant/001.png 0\nant/002.png x\nbee/001.png 1\n")
    assert layout(root / "a.txt").faults[0].endswith("in 1 line: line 1 ('ant/000.png')")
    (root / "names.txt").write_text("ant\n")
    with pytest.raises(
        DataError, match=r"names 0 to 0, in 2 lines: line 3 \('x'\), line 4 \('1'\)"
    ):
        read(root / "a.txt", class_names=root / "names.txt")
    for text, message in {
        "ant\n\nbee\n": r"names\.txt:2: there is no name for class 1",
        "ant\nbee\nant\n": r"names\.txt:3: 'ant' is the name of class 0 too",
    }.items():
        (root / "names.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            read(root / "a.txt", class_names=root / "names.txt")
    (root / "names.csv").write_text("1,ant\n1,bee\n")
    with pytest.raises(DataError, match=r"names\.csv:2: class 1 is named before, 'ant'"):
        read(root / "a.txt", class_names=root / "names.csv")


def test_files_outside_are_read_on_request(flat, tmp_path):
    """--follow-links reads them, as --data-dir of the folder above does."""
    root, rows = flat
    (tmp_path / "lists").mkdir()
    write(
        tmp_path / "lists" / "a.txt",
        [(f"../photos/{f}", label) for f, label in rows],
        delimiter=" ",
    )
    with pytest.raises(DataError, match="outside of the data folder, in 31 lines: line 1"):
        read(tmp_path / "lists" / "a.txt")
    expected = load_own_folder(root, FolderOptions(8))
    same(read(tmp_path / "lists" / "a.txt", follow_links=True)[0], expected)
    write(
        tmp_path / "lists" / "b.txt", [(f"photos/{f}", label) for f, label in rows], delimiter=" "
    )
    same(read(tmp_path / "lists" / "b.txt", data_dir=tmp_path)[0], expected)


def test_one_file_by_two_names_is_one_image(flat):
    """A link, a detour and a repeated line name the same file, which is read once and told."""
    root, rows = flat
    (root / "link.png").symlink_to(root / "ant" / "000.png")
    more = [("link.png", "ant"), ("bee/../ant/000.png", "ant"), ("ant/000.png", "ant")]
    write(root / "a.txt", [*rows, *more], delimiter=" ")
    found, told = read(root / "a.txt")
    same(found, load_own_folder(root, FolderOptions(8)))
    assert "a file that stands there before, and is read once, in 3 lines: line 32" in told


def test_missing_and_unreadable_files_can_be_left_out(flat):
    """--skip-unreadable goes on without both, and says which; a class without any is refused."""
    root, rows = flat
    write(root / "a.txt", [*rows, ("ant/gone.png", "ant")], delimiter=" ")
    (root / "bee" / "003.png").write_text("x")
    with pytest.raises(
        DataError, match=r"(?s)gone\.png.*--skip-unread.*bee/003\.png is not an image"
    ):
        read(root / "a.txt")
    found, told = read(root / "a.txt", skip_unreadable=True)
    assert len(found.training) + len(found.test) == 30
    assert "skipped, to be mended:" in told
    assert "skipped, to be replaced or removed:" in told
    for number in range(9):
        (root / "bee" / f"{number:03}.png").write_text("x")
    with pytest.raises(DataError, match=r"class 'bee' of .*a\.txt has no images"):
        read(root / "a.txt", skip_unreadable=True)


def test_a_class_of_one_image_is_trained_on_and_a_lone_class_refused(flat):
    """As of class folders: one image is never tested, and told; one class is nothing to tell."""
    root, rows = flat
    write(root / "a.txt", [*rows[:21], ("cat/000.png", "cat")], delimiter=" ")
    found, told = read(root / "a.txt")
    assert (found.training.counts()[2], found.test.counts()[2]) == (1, 0)
    assert "cat" in told
    write(root / "a.txt", rows[:12], delimiter=" ")
    with pytest.raises(DataError, match=r"are all of one class, 'ant'"):
        read(root / "a.txt")


def test_a_group_of_a_list_stays_on_one_side(flat):
    """Patients of three images each are never in training and test both."""
    root, rows = flat
    patients = [f"{label}{number // 3}" for number, (_, label) in enumerate(rows)]
    table = [(*row, patient) for row, patient in zip(rows, patients, strict=True)]
    write(root / "a.csv", table, header=("path", "label", "patient"))
    found, _ = read(root / "a.csv", group_column="patient")
    train, test = (set(some.groups.tolist()) for some in (found.training, found.test))
    assert train | test == set(patients)
    assert not train & test
    of_file = dict(zip((file for file, _ in rows), patients, strict=True))
    names = [os.fsdecode(place) for place in found.test.places.tolist()]
    assert found.test.groups.tolist() == [of_file[name] for name in names]


def test_a_file_of_two_groups_is_a_fault(flat):
    """Its second subject could be tested by other images; a line that stands twice is none."""
    root, rows = flat
    lines = [(file, label, f"P{number % 7}") for number, (file, label) in enumerate(rows)]
    other = (*lines[0][:2], "Q")
    write(root / "a.csv", [*lines, lines[1], other], header=("path", "label", "patient"))
    found = layout(root / "a.csv", group_column="patient")
    (fault,) = found.faults
    told = f"a second group for a file, in 1 line: line {len(lines) + 3} ({lines[0][0]}: 'Q', and "
    assert f"{told}'P0' in line 2)" in fault
    assert any("is read once" in note for note in found.notes)


def test_parts_of_lists_that_contradict_each_other(parted):
    """A part that is lacking, a list in two roles, and lists of which two are the training."""
    root, rows = parted
    train = [(f, label, "train") for f, label, part in rows if part == "train"]
    write(root / "a.csv", train, header=("path", "label", "split"))
    with pytest.raises(DataError, match=r"names train images, and no test images that are there"):
        read(root / "a.csv")
    with pytest.raises(DataError, match=r"has a column of splits, and is named as a list of train"):
        read(root / "a.csv", test=root / "a.csv")
    write(root / "a_train.txt", [row[:2] for row in train], delimiter=" ")
    with pytest.raises(DataError, match=r"a second split for a file"):
        read(root / "a_train.txt", test=root / "a_train.txt")
    write(root / "b_train.txt", [row[:2] for row in train], delimiter=" ")
    with pytest.raises(
        DataError, match=r"two lists of train images, a_train\.txt and b_train\.txt"
    ):
        read(root)


def test_classes_that_a_person_takes_for_one(parted):
    """A test label in other case is the training's, as of folders; one file has one label."""
    root, rows = parted
    write(
        root / "a.csv",
        [(f, label.upper() if part == "test" else label, part) for f, label, part in rows],
        header=("path", "label", "split"),
    )
    found, told = read(root / "a.csv")
    same(found, load_own_folder(root, FolderOptions(8)))
    assert "'ANT' is taken for 'ant'" in told
    write(
        root / "b.csv",
        [("train/ant/000.png", "Ant"), *(row[:2] for row in rows)][:60],
        header=("path", "label"),
    )
    with pytest.raises(DataError, match="second label for a file"):
        read(root / "b.csv")


def test_parts_are_found_again_whatever_else_is_wrong(parted):
    """A search of a run's images passes over bad lines, and has the wanted part first."""
    root, rows = parted
    write(root / "a.csv", [*rows, ("gone.png", "ant", "test")], header=("path", "label", "split"))
    options = options_of(root / "a.csv")
    parts = list(load_parts("list", root, "test", options=options))
    assert [len(part.labels) for part in parts] == [31, 31, 31]
    expected = load_own_folder(root, FolderOptions(8))
    assert parts[0].digests.tolist() == expected.test.digests.tolist()
    assert os.fsdecode(parts[0].places[0]) == "test/ant/000.png"


def test_each_part_and_list_keeps_its_own_decoded_images(parted, monkeypatch):
    """The parts have one root: decoded once, they are all in the cache at the next start."""
    root, rows = parted
    write(root / "a.csv", rows, header=("path", "label", "split"))
    read(root / "a.csv")
    monkeypatch.setattr(decoding, "decode", None)  # so that decoding would fail
    read(root / "a.csv")


def test_a_config_with_a_list_gives_what_one_with_the_folder_gives(parted):
    """The training with its own validation images, and the facts that the defaults follow from."""
    root, rows = parted
    write(root / "a.csv", rows, header=("path", "label", "split"))
    size = {"image_size": 8, "batch_size": 8}
    folder = Config.model_validate({"dataset": "folder", "data_dir": root, **size})
    listed = Config.model_validate({"dataset": "list", "image_list": root / "a.csv", **size})
    for mine, theirs in zip(
        load_training(listed, SilentDisplay()), load_training(folder, SilentDisplay()), strict=True
    ):
        assert mine.digests.tolist() == theirs.digests.tolist()
    assert facts_of(listed) == facts_of(folder)
    assert facts_of(listed).train_images == 31
