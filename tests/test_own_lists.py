"""Lists of image files through the command line: trained on, resumed, evaluated, found again."""

import json
import shutil

import pytest
import yaml

from lmsm_cli.commands.app import main
from lmsm_cli.data.class_folders import FolderOptions
from lmsm_cli.data.lists import ImageLists
from lmsm_cli.data.sources import load_own_folder
from tests.conftest import noise, save

FLAGS = (
    "--image-size 8 --model paper-mnist --epochs 1 --batch-size 8 --threads 1 --device cpu "
    "--precision fp32 --quiet --out runs"
)


@pytest.fixture
def lmsm(tmp_path, monkeypatch, capsys):
    """Return a function that calls a command; it gives exit code, document and messages."""
    monkeypatch.chdir(tmp_path)

    def run(command, *flags):
        more = FLAGS.split() if command == "train" else []
        code = main([command, *map(str, flags), *more, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out or "null"), " ".join(printed.err.split())

    return run


@pytest.fixture
def pets(tmp_path):
    """Write class folders and a list of them, with numbers as labels and a file of names."""
    root = tmp_path / "pets"
    lines = ["path,label"]
    for label, name in enumerate(("ant", "bee")):
        for number in range(20):
            save(root / name / f"{number:03}.png", noise(1000 * label + number))
            lines.append(f"{name}/{number:03}.png,{label}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    (root / "names.txt").write_text("ant\nbee\n")
    return root


def run_folders(tmp_path):
    """Return the run folders, the oldest first."""
    found = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path / "images.npz").stat().st_mtime_ns)


def rows_of(path):
    """Return the rows of a run without what is timed."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "images_per_second")
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


def test_folder_and_list_make_the_same_run_and_config_yaml_repeats_it(lmsm, pets, tmp_path):
    """Same images, same digests, same numbers to the bit; config.yaml names the list."""
    assert lmsm("train", "--dataset", "pets")[0] == 0
    assert lmsm("train", "--dataset", "pets/list.csv", "--class-names", "pets/names.txt")[0] == 0
    folder, listed = run_folders(tmp_path)
    assert lmsm("train", "--config", listed / "config.yaml")[0] == 0
    again = run_folders(tmp_path)[-1]
    assert rows_of(folder) == rows_of(listed) == rows_of(again)
    scores = [json.loads((path / "scores.json").read_text()) for path in (folder, listed, again)]
    assert scores[0]["images"] == scores[1]["images"] == scores[2]["images"]
    assert [one["name"] for one in scores[1]["per_class"]] == ["ant", "bee"]
    config = yaml.safe_load((listed / "config.yaml").read_text())
    assert config["dataset"] == "list"
    assert config["image_list"] == "pets/list.csv"
    assert config["data_dir"] == "pets"


@pytest.mark.parametrize(
    ("labels", "names", "differs"),
    [
        (("2", "10"), None, True),
        (("1", "2"), None, False),
        (("02", "10"), None, False),
        (("0", "1"), "bee\nant\n", True),
        (("0", "1"), "ant\nbee\n", False),
        (("b", "a"), None, False),
    ],
)
def test_a_list_whose_classes_stand_otherwise_than_folders_is_told(
    lmsm, tmp_path, labels, names, differs
):
    """`lmsm data` says it of lists alone, where folders of these names stand otherwise."""
    lines = ["path,label"]
    for place, label in enumerate(labels):
        name = names.split()[int(label)] if names else label
        for number in range(10):
            save(tmp_path / "pets" / name / f"{number}.png", noise(100 * place + number))
            lines.append(f"{name}/{number}.png,{label}")
    (tmp_path / "pets" / "list.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "names.txt").write_text(names or "")
    flags = ("--class-names", "names.txt") if names else ()
    found = [lmsm("data", *given)[1] for given in (("pets/list.csv", *flags), ("pets",))]
    fact = "the classes are in the order of their numbers, not in that of letters"
    told = [fact in json.dumps(one["findings"]) for one in found]
    assert told == [differs, False]
    lists = ImageLists(tmp_path / "pets" / "list.csv", class_names=names and tmp_path / "names.txt")
    listed, folders = (
        load_own_folder(tmp_path / "pets", FolderOptions(8, lists=given)).training
        for given in (lists, None)
    )
    assert (listed.classes != folders.classes) is differs
    assert (listed.digests.tolist() != folders.digests.tolist()) is differs


def test_eval_and_resume_find_the_images_when_all_was_moved(lmsm, pets, tmp_path):
    """With the list beside its images, with the list gone, and with its lines in another order."""
    flags = ("--dataset", "pets/list.csv", "--class-names", "pets/names.txt")
    assert lmsm("train", *flags)[0] == 0
    (path,) = run_folders(tmp_path)
    first = lmsm("eval", path)[1]
    assert sum(one["test_count"] for one in first["per_class"]) == 8
    pets.rename(tmp_path / "moved")
    code, _, said = lmsm("eval", path)
    assert code == 3
    assert "there is no list pets/list.csv" in said
    code, found, said = lmsm("eval", path, "--data-dir", "moved")
    assert (code, found) == (0, first)
    assert "there is no list" not in said
    header, *lines = (tmp_path / "moved" / "list.csv").read_text().splitlines()
    (tmp_path / "moved" / "list.csv").write_text("\n".join([header, *lines[::-1]]) + "\n")
    assert lmsm("eval", path, "--data-dir", "moved")[:2] == (0, first)
    (tmp_path / "moved" / "list.csv").unlink()
    code, found, said = lmsm("eval", path, "--data-dir", "moved")
    assert (code, found) == (0, first)
    assert (
        "there is no list pets/list.csv: the images are those that the run recorded, in moved"
        in said
    )
    assert lmsm("resume", path, "--data-dir", "moved", "--epochs", "2")[0] == 0
    assert len(rows_of(path)) == 2


def test_a_resumed_run_of_a_list_has_the_bits_of_one_that_nobody_stopped(lmsm, pets, tmp_path):
    """One epoch and one more are two epochs."""
    assert lmsm("train", "--dataset", "pets/list.csv", "--schedule", "constant")[0] == 0
    (first,) = run_folders(tmp_path)
    assert lmsm("resume", first, "--epochs", "2")[0] == 0
    shutil.move(first, tmp_path / "resumed")
    settings = yaml.safe_load((tmp_path / "resumed" / "config.yaml").read_text())
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings | {"epochs": 2}))
    code = main(["train", "--config", "two.yaml", "--quiet"])
    (whole,) = run_folders(tmp_path)
    assert code == 0
    assert rows_of(whole) == rows_of(tmp_path / "resumed")


def test_an_image_of_another_class_now_is_told(lmsm, pets, tmp_path):
    """A label that was mended in the list since then is no longer the run's."""
    assert lmsm("train", "--dataset", "pets/list.csv")[0] == 0
    (path,) = run_folders(tmp_path)
    text = (pets / "list.csv").read_text()
    (pets / "list.csv").write_text(text.replace("png,0", "png,x").replace("png,1", "png,0"))
    code, _, said = lmsm("eval", path)
    assert code == 3
    assert "of another class now" in said


def test_two_paths_in_one_sweep_are_two_data_sets(lmsm, pets, tmp_path):
    """Each run has its own folder; with --data-dir too, it is unclear whose that is."""
    shutil.copytree(pets, tmp_path / "fewer")
    for number in range(10):
        (tmp_path / "fewer" / "ant" / f"{number:03}.png").unlink()
    (tmp_path / "fewer" / "list.csv").unlink()
    sweep = ("sweep", "--grid", "dataset=pets/list.csv,fewer/", *FLAGS.split())
    code, _, said = lmsm(*sweep, "--data-dir", "x")
    assert code == 2
    assert "--data-dir x is given, and dataset is varied" in said
    assert lmsm(*sweep)[0] == 0
    made = [json.loads((path / "scores.json").read_text()) for path in run_folders(tmp_path)]
    counts = [[one["test_count"] for one in scores["per_class"]] for scores in made]
    assert sorted(counts) == [[2, 4], [4, 4]]


@pytest.mark.parametrize(
    ("dataset", "code", "message"),
    [
        ("pet", 2, "no such path exists (there is ./pets)"),
        ("gone/", 3, "there is no folder gone"),
        ("gone.csv", 3, "there is no list gone.csv"),
        ("pets/names.txt", 3, "no path and label with a blank between them"),
    ],
)
def test_what_is_not_there_is_told_before_training(lmsm, pets, tmp_path, dataset, code, message):
    """2 for a slip of the keyboard, 3 for data that is missing or bad; no run folder is made."""
    found, _, said = lmsm("train", "--dataset", dataset)
    assert found == code
    assert message in said
    assert not (tmp_path / "runs").exists()


def test_duplicates_in_a_list_are_told(lmsm, pets, tmp_path):
    """The same picture in two parts flatters the test, whatever names them."""
    lines = (pets / "list.csv").read_text().splitlines()
    shutil.copy(pets / "ant" / "000.png", pets / "ant" / "copy.png")
    parts = [
        "path,label,split",
        *(f"{line},{'test' if '01' in line else 'train'}" for line in lines[1:]),
    ]
    (pets / "parts.csv").write_text("\n".join([*parts, "ant/copy.png,0,test"]) + "\n")
    code, _, said = lmsm("train", "--dataset", "pets/parts.csv")
    assert code == 0
    assert "1 picture is among the training and the test images" in said


def test_export_and_predict_take_a_run_of_a_list(lmsm, pets, tmp_path):
    """The exported net is verified on the list's test images, and predict names its classes."""
    pytest.importorskip("onnx")
    flags = ("--dataset", "pets/list.csv", "--class-names", "pets/names.txt")
    assert lmsm("train", *flags)[0] == 0
    (path,) = run_folders(tmp_path)
    code, _, said = lmsm("export", path, "--out", "net.onnx")
    assert code == 0
    assert "cannot be had" not in said
    code, document, _ = lmsm("predict", path, "pets/ant/000.png")
    assert code == 0
    assert document["images"]
