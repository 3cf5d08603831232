"""What config/data_path.py and resolve.py promise: which data set a path stands for."""

from pathlib import Path

import pytest

from lmsm_cli.config import dump_yaml
from lmsm_cli.config.data_path import ROLES, list_names
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data import layout
from lmsm_cli.errors import LmsmError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    """Make empty files, and the folders above them."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*layers):
    """Return data set, folder and list of the config that layers of flags make."""
    config = resolve([Layer.of_flags(layer) for layer in layers]).config
    return config.dataset, str(config.data_dir), config.image_list and str(config.image_list)


def test_a_known_name_wins_over_a_folder_and_a_path_means_the_folder(here):
    """`digits` is scikit-learn's, `./digits` the folder; so for the names of own images."""
    for name in ("digits", "folder", "photos"):
        (here / name).mkdir()
    assert found({"dataset": "digits"}) == ("digits", "data", None)
    assert found({"dataset": "./digits"}) == ("folder", "digits", None)
    assert found({"dataset": "folder"}) == ("folder", "data", None)
    assert found({"dataset": "photos"}) == ("folder", "photos", None)
    assert found({"dataset": "photos/"}) == ("folder", "photos", None)


def test_a_list_brings_its_own_folder(here):
    """The images of a list are below its folder, unless --data-dir names another."""
    touch("sets/pets.csv", "sets/pets.data")
    assert found({"dataset": "sets/pets.csv"}) == ("list", "sets", "sets/pets.csv")
    assert found({"dataset": "sets/pets.data"}) == ("list", "sets", "sets/pets.data")
    given = {"dataset": "sets/pets.csv", "data_dir": "images"}
    assert found(given) == ("list", "images", "sets/pets.csv")


def test_a_list_is_not_looked_for_below_the_usual_data_folder(here, monkeypatch):
    """LMSM_DATA_DIR is where published data sets are; a list lies with its images."""
    monkeypatch.setenv("LMSM_DATA_DIR", "elsewhere")
    assert found({"dataset": "gone.csv"}) == ("list", ".", "gone.csv")
    assert found({"dataset": "digits"}) == ("digits", "elsewhere", None)


@pytest.mark.parametrize(
    ("dataset", "kind"), [("gone/", "folder"), ("x/gone", "folder"), ("gone.csv", "list")]
)
def test_a_path_that_is_not_there_is_told_when_it_is_read(here, dataset, kind):
    """What looks like a path is one, so that the exit code is that of missing data."""
    assert found({"dataset": dataset})[0] == kind


def test_a_misspelt_name_gives_the_nearest_name_and_path(here):
    """A word that is neither says both: which name it may mean, and that no such path exists."""
    touch("pictures/x")
    with pytest.raises(LmsmError, match=r"'cifr10' \(did you mean 'cifar10'\?\), and no such path"):
        found({"dataset": "cifr10"})
    with pytest.raises(LmsmError, match=r"no such path exists \(there is \./pictures\)"):
        found({"dataset": "picturs"})


def test_two_folders_in_one_place_are_refused(here):
    """A folder as the data set and another --data-dir contradict each other; the same does not."""
    touch("photos/x", "other/x")
    with pytest.raises(LmsmError, match="--data-dir names another, 'other'; leave one out"):
        found({"dataset": "photos/", "data_dir": "other"})
    assert found({"dataset": "photos/", "data_dir": "photos"})[1] == "photos"


def test_another_data_set_takes_nothing_over_from_the_one_below(here):
    """A path above a saved config replaces folder and lists; a name above a path drops the path."""
    touch("a/x", "b.csv", "c/x")
    saved = {"dataset": "list", "image_list": "b.csv", "data_dir": "images", "path_column": "p"}
    assert found(saved, {"dataset": "a/"}) == ("folder", "a", None)
    touch("d/e.csv")
    config = resolve([Layer.of_flags(saved), Layer.of_flags({"dataset": "d/e.csv"})]).config
    assert (config.image_list, config.data_dir) == (Path("d/e.csv"), Path("d"))
    assert config.path_column is None
    assert found({"dataset": "c/"}, {"dataset": "cifar10"}) == ("cifar10", "data", None)
    assert found({"dataset": "folder", "data_dir": "c"}, {"dataset": "cifar10"})[1] == "c"
    assert found({"dataset": "c/"}, {"data_dir": "a"})[1] == "a"


def test_the_written_config_repeats_the_run(here):
    """What is written names the kind of data and its place, so it means the same anywhere."""
    touch("sets/pets.csv")
    config = resolve([Layer.of_flags({"dataset": "sets/pets.csv", "label_column": "kind"})]).config
    (here / "saved.yaml").write_text(dump_yaml(config))
    assert resolve([Layer.of_file(here / "saved.yaml")]).config == config


def test_options_of_lists_are_refused_elsewhere(here):
    """A column says nothing of class folders, and a list without a path is none."""
    with pytest.raises(LmsmError, match="label_column kind has no effect with dataset 'digits'"):
        found({"dataset": "digits", "label_column": "kind"})
    with pytest.raises(LmsmError, match=r"needs a list; give its path, as in --dataset x\.csv"):
        found({"dataset": "list"})


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ("metadata.csv images/1.png", ["metadata.csv"]),
        (
            "train/metadata.csv train/1.png test/metadata.csv",
            ["test/metadata.csv", "train/metadata.csv"],
        ),
        (
            "ImageNet_LT_train.txt ImageNet_LT_val.txt ImageNet_LT_test.txt notes.txt",
            ["ImageNet_LT_test.txt", "ImageNet_LT_train.txt", "ImageNet_LT_val.txt"],
        ),
        ("x-train.csv x-test.csv images/1.png", ["x-test.csv", "x-train.csv"]),
    ],
)
def test_a_folder_of_lists_is_read_by_its_lists(here, files, names):
    """metadata.csv, and lists whose names end in what they are for, are found in a folder."""
    touch(*(f"set/{name}" for name in files.split()))
    assert list_names(Path("set")) == names
    assert found({"dataset": "set"}) == ("list", "set", "set")


def test_lists_beside_class_folders_are_not_guessed(here):
    """Both could be meant, so both commands are said; a stray test.txt is no list of training."""
    touch("set/train/ant/1.png", "set/train/bee/1.png", "set/test/ant/1.png", "set/train.txt")
    with pytest.raises(LmsmError, match=r"--dataset folder --data-dir set, or --dataset set/train"):
        found({"dataset": "set"})
    Path("set/train.txt").rename("set/test.txt")
    assert found({"dataset": "set"})[0] == "folder"


def test_both_rooms_know_the_same_words_for_parts():
    """config/ may not import from data/, so the words stand in both."""
    assert set(ROLES) == set(layout._ROLES)
