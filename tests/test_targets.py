"""What a flag has written replaces no file of a run, none that is read, and is among no images."""

import shlex
import shutil
from contextlib import nullcontext

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.config.data_path import choices_at
from lmsm_cli.data.layout import check_apart
from lmsm_cli.errors import LmsmError
from lmsm_cli.runs.recording import record_run
from tests.test_layout import fill

OWN = (
    "config.yaml",
    "environment.json",
    "status.json",
    "metrics.jsonl",
    "scores.json",
    "images.npz",
    "predictions.npz",
    "checkpoint.pt",
    "best.pt",
    "train.log",
)
RESULTS = "id,label,predicted\n" + "".join(f"i{i},{i % 2},{i % 2}\n" for i in range(40))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with photos/, other/ and run/, which was trained on photos/."""
    root = tmp_path_factory.mktemp("targets")
    fill(root / "photos", {"ant": 8, "bee": 8})
    fill(root / "other", {"ant": 3, "bee": 3}, seed=1)
    quick = "--image-size 8 --batch-size 4 --epochs 1 --model paper-2d --quiet --threads 1"
    words = f"train --dataset {root}/photos {quick} --out {root}/runs"
    assert main(shlex.split(words)) == 0
    (run,) = (root / "runs").iterdir()
    run.rename(root / "run")
    return root


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """Stand in a copy of it; commands name what is in it."""
    shutil.copytree(trained / "run", tmp_path / "run")
    for name in ("photos", "other"):
        (tmp_path / name).symlink_to(trained / name)
    for name in ("a-s0.csv", "b-s0.csv"):
        (tmp_path / name).write_text(RESULTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    """Return what every file below a folder holds, also behind links."""
    found = {}
    for top in folder.iterdir():
        for path in top.resolve().rglob("*") if top.is_dir() else [top]:
            if path.is_file():
                found[str(path)] = path.read_bytes()
    return found


def check_refused(words, folder, capsys):
    """Run a command that must be refused before it changes anything; return what it says."""
    before = contents(folder)
    assert main(shlex.split(words)) == 2
    assert contents(folder) == before
    return capsys.readouterr().err


def test_the_files_of_a_run_are_those_that_are_kept(place):
    """No file of a run but its lock can be replaced by a flag: the list lacks none."""
    there = {path.name for path in (place / "run").iterdir() if path.is_file()}
    assert there - {".lock"} == set(OWN)


@pytest.mark.parametrize(
    "command",
    [
        "export run --out run/{}",
        "predict run photos/ant --csv run/{}",
        "adjust run --adjust 1 --out run/{}",
        "report run --out run/{}",
        "compare run --html run/{}",
        "compare run --csv run/../run/{}",
    ],
)
def test_a_file_of_a_run_is_not_replaced(command, place, capsys):
    """A run goes on from it, is judged by it or is compared by it."""
    for name in OWN:
        said = check_refused(command.format(name), place, capsys)
        assert f"{name}: a run goes on from this file" in said


@pytest.mark.parametrize(
    ("command", "lost"),
    [
        ("eval run --features run/images.npz", "images.npz"),
        ("eval run/moved.pt --features run/predictions.npz", "predictions.npz"),
        ("export run/moved.pt --out run/moved.pt", "moved.pt: this command reads it"),
        ("adjust run/moved.pt --adjust 1 --out moved.pt", "moved.pt: this command reads it"),
        ("predict run photos/ant --csv photos/ant/{image}", "this command reads it"),
        ("predict run photos/ant/{image} --csv photos/../photos/ant/{image}", "reads it"),
        ("compare a-s0.csv b-s0.csv --csv a-s0.csv", "a-s0.csv: this command reads it"),
        ("compare a-s0.csv b-s0.csv --html b-s0.csv", "b-s0.csv: this command reads it"),
        ("presets copy digits run/config.yaml --force", "config.yaml: a run goes on"),
    ],
)
def test_what_is_read_is_not_replaced(command, lost, place, capsys):
    """Also where the two names differ, as by a link."""
    shutil.copy(place / "run" / "checkpoint.pt", place / "run" / "moved.pt")
    (place / "moved.pt").symlink_to(place / "run" / "moved.pt")
    image = next((place / "photos" / "ant").iterdir()).name
    assert lost in check_refused(command.format(image=image), place, capsys)


@pytest.mark.parametrize(
    "command",
    [
        "eval run --plots photos/plots",
        "eval run --plots photos/ant",
        "eval run --features photos/ant/two.npz",
        "eval run --images other --plots other/plots",
        "compare run --plots photos/plots",
        "compare run --csv photos/metadata.csv",
        "compare run --html photos/ant/page.html",
        "report run --out photos/page.html",
        "predict run other --csv photos/metadata.csv",
        "adjust run --temperature 2 --out photos/ant/even.pt",
        "export run --format torch --out photos/net.pt2",
    ],
)
def test_nothing_is_written_among_the_images(command, place, capsys):
    """The next look would take it for a class, for one of its images, or for a list of them."""
    said = check_refused(command, place, capsys)
    assert "lies in the folder of the images" in said


@pytest.mark.parametrize("command", ["compare run --csv", "predict run photos/bee --csv"])
def test_the_list_of_a_runs_images_is_not_replaced(command, tmp_path, monkeypatch, capsys):
    """It has the ending of a table; another table is replaced."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", {"ant": 8, "bee": 8})
    names = [path.relative_to(tmp_path) for path in sorted(tmp_path.glob("photos/*/*"))]
    rows = "".join(f"{name},{name.parts[1]}\n" for name in names)
    (tmp_path / "all.csv").write_text(f"path,label\n{rows}")
    quick = "--image-size 8 --batch-size 4 --epochs 1 --model paper-2d --quiet --threads 1"
    assert main(shlex.split(f"train --dataset all.csv {quick} --out runs")) == 0
    (run,) = (tmp_path / "runs").iterdir()
    run.rename(tmp_path / "run")
    said = check_refused(f"{command} all.csv", tmp_path, capsys)
    assert "is the list of the run's images" in said
    (tmp_path / "old.csv").write_text("")
    assert main(shlex.split(f"{command} old.csv")) == 0
    assert (tmp_path / "old.csv").read_text()


@pytest.mark.parametrize(
    "command",
    [
        "report run --out {}",
        "compare run --html {}",
        "compare run --csv {}",
        "predict run photos/bee --csv {}",
        "adjust run --adjust 1 --out {}",
        "export run --format torch --out {}",
        "export run --out {}",
    ],
)
@pytest.mark.parametrize("name", ["mine.png", "mine.md", "mine"])
def test_a_file_of_another_kind_is_not_replaced(name, command, place, capsys):
    """A picture or a document of the user's has another ending, or begins as one."""
    (place / name).write_bytes(b"mine" if "." in name else b"\xff\xd8\xff\xe0")
    said = check_refused(command.format(name), place, capsys)
    assert f"{name}: a file of another kind is there; give a name that ends in ." in said


def test_a_table_is_no_page(place, capsys):
    """Results of another program are not replaced by a page of two others."""
    (place / "mine.csv").write_text(RESULTS)
    said = check_refused("compare a-s0.csv b-s0.csv --html mine.csv", place, capsys)
    assert "give a name that ends in .html or .htm" in said


def test_a_new_file_may_have_any_name_and_one_of_its_kind_is_replaced(place):
    """A script that writes the same page or table again goes on to work."""
    assert main(shlex.split("report run --out page")) == 0
    for name in ("page.html", "PAGE.HTM"):
        (place / name).write_text("mine")
        assert main(["report", "run", "--out", name]) == 0
        assert (place / name).read_bytes() == (place / "page").read_bytes()
    for _ in range(2):
        assert main(shlex.split("compare run --csv table.CSV --html page.txt")) == 0
        assert main(shlex.split("predict run photos/bee --csv table.txt --quiet")) == 0
        for name in ("even.pth", "even.ckpt", "even"):
            assert main(shlex.split(f"adjust run --temperature 2 --out {name} --quiet")) == 0


def test_what_a_script_recorded_names_no_list(place):
    """Its settings are its own: a number of classes may be called as the list of their names."""
    labels = [0, 1] * 5
    settings = {"class_names": 2, "image_list": "none"}
    record_run("own", loss="softmax", seed=0, labels=labels, predictions=labels, settings=settings)
    assert main(shlex.split("compare own --csv own.csv")) == 0


def test_where_a_run_had_its_images_is_free_when_they_have_moved(trained, place):
    """A relative name, as `photos`, is another folder from elsewhere, and may hold anything."""
    (place / "photos").unlink()
    (place / "photos" / "tables").mkdir(parents=True)
    config = place / "run" / "config.yaml"
    config.write_text(config.read_text().replace(f"{trained}/photos", "photos"))
    predict = "predict run other --data-dir photos --csv"
    for command in ("report run --out", "compare run --html", predict):
        assert main(shlex.split(f"{command} photos/written")) == 0
        (place / "photos" / "written").unlink()


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("metadata.csv", True),
        ("x_train.txt", True),
        ("my-training.tsv", True),
        ("train.csv", True),
        ("test.csv/page.html", False),
        ("page.html", False),
        ("x_train.html", False),
        ("classes.csv", False),
    ],
)
def test_beside_the_parts_no_list_of_images_is_written(name, is_read, tmp_path):
    """With one, lmsm asks which of the two is the data; what has another name it leaves out."""
    for part in ("train", "test"):
        fill(tmp_path / "photos" / part, {"ant": 1, "bee": 1})
    with pytest.raises(LmsmError, match="lies in") if is_read else nullcontext():
        check_apart("--csv", tmp_path / "photos" / name, "folder", tmp_path / "photos")
    file = tmp_path / "photos" / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(LmsmError, match="say which is") if is_read else nullcontext():
        choices_at(tmp_path / "photos", ())


def test_what_is_no_file_of_a_run_is_written_there(place, capsys):
    """Names of their own are right beside it, also a second time."""
    for _ in range(2):
        assert main(shlex.split("predict run photos/ant --csv run/predicted.csv --quiet")) == 0
        assert main(shlex.split("report run --out run/page.html")) == 0
        assert main(shlex.split("eval run --plots run/plots-again --quiet")) == 0
    assert (place / "run" / "predicted.csv").read_text().startswith("file,")
    assert (place / "run" / "page.html").exists()
