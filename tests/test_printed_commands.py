"""A printed command can be typed: it is parsed, and gives the config that it stands for."""

import json
import shlex
from pathlib import Path

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.commands.options import flag_words, train_command
from lmsm_cli.config import Config, dump
from lmsm_cli.config.keys import LIST_KEYS, NONE_KEYS
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.config.yaml import dump_yaml
from lmsm_cli.runs.start import facts_with_start
from tests.conftest import noise, save

LIST = {"dataset": "list", "image_list": "all.csv"}
OWN = {"dataset": "folder", "data_dir": "photos"}
# Values of keys that may have none, with the other choices that they need.
GIVEN = {
    "image_list": LIST,
    "validation_list": LIST | {"validation_list": "a b.csv", "test_list": "test.csv"},
    "test_list": LIST | {"test_list": "test.csv"},
    **{key: LIST | {key: "a column"} for key in LIST_KEYS if key.endswith("_column")},
    "class_names": LIST | {"class_names": "names.txt"},
    "group_pattern": OWN | {"group_pattern": "(.*)_"},
    "images_per_class": {"images_per_class": 5},
    "test_images_per_class": {"test_images_per_class": 5},
    "folds": OWN | {"folds": 3},
    "fold": OWN | {"folds": 3, "fold": 1},
    "crop_from": OWN | {"augment": "photo", "image_size": 32, "crop_from": 40},
    "pretrained": {"pretrained": "imagenet", "model": "resnet18"},
    "freeze": {"freeze": "backbone", "pretrained": "imagenet", "model": "resnet18"},
    "post_hoc": {"post_hoc": "ncm", "pretrained": "runs/a b", "freeze": "features"},
    "class_margins": {"class_margins": {"a,b": 3.0}, "loss": "lsoftmax"},
    "class_weights": {"class_weights": {"cat": 2.0, "dog": 0.5}},
    "backbone_lr": {"backbone_lr": 0.00001, "pretrained": "imagenet", "model": "resnet18"},
    "ema": {"ema": 0.99},
    "patience": {"patience": 3},
    "head_weight_decay": {"head_weight_decay": 0.0},
}
MAY_LACK = [key for key, field in Config.model_fields.items() if field.default is None]
SWITCHES = [key for key, field in Config.model_fields.items() if field.annotation is bool]


def config_of(values):
    """Return the config of values that somebody gave."""
    return resolve([Layer(values, dict.fromkeys(values, "given"))]).config


def typed_again(command, capsys):
    """Return the config that a printed command makes."""
    words = shlex.split(command)
    assert words[:2] == ["lmsm", "train"]
    assert main([*words[1:], "--show-config", "--json"]) == 0
    return {key: row["value"] for key, row in json.loads(capsys.readouterr().out).items()}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Make a folder with photos that are larger than what they are brought to, and enter it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LMSM_DATA_DIR", raising=False)
    for number in range(6):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            save(tmp_path / "photos" / name / f"{number}.png", noise(number, (80, 80, 3)))
    return tmp_path


def test_each_key_that_may_have_no_value_is_known_here():
    """Those of lists and of names have no word for it: any text is a name."""
    assert {*MAY_LACK} - {"out"} == GIVEN.keys()
    assert {*NONE_KEYS} == GIVEN.keys() - {*LIST_KEYS, "group_pattern"}


@pytest.mark.parametrize("key", sorted(GIVEN))
@pytest.mark.parametrize("has_it", [True, False])
def test_a_value_is_given_and_taken_back(key, has_it, place, capsys):
    """By a command on a file that has the value or has none."""
    other = GIVEN[key].keys() & {"folds", "fold"} if key == "folds" else {key}
    without = {name: one for name, one in GIVEN[key].items() if name not in other}
    if key in ("image_list", "pretrained", "test_list"):
        without = {}
    wanted, below = (GIVEN[key], without) if has_it else (without, GIVEN[key])
    file = place / "my config.yaml"
    file.write_text(dump_yaml(dump(config_of(below))))
    command = train_command(config_of(wanted), config=Path("my config.yaml"))
    assert "None" not in command
    assert typed_again(command, capsys) == config_of(wanted).model_dump(mode="json")


@pytest.mark.parametrize("given", [(), ("--test-share", "0.3"), ("--config", "margins.yaml")])
def test_the_training_after_a_check_is_accepted(given, place, capsys):
    """What the check advises may not go with what it was given."""
    for number in range(6, 30):
        save(place / "photos" / "ant" / f"{number}.png", noise(number, (80, 80, 3)))
    (place / "margins.yaml").write_text(
        "batch_size: 8\nloss: lsoftmax\nclass_margins: {ant: 2.0}\n"
    )
    assert main(["data", "photos", *given, "--quiet"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next, to tr")]
    (command,) = (line.partition(": ")[2] for line in told)
    assert typed_again(command, capsys)["dataset"] == "folder"


@pytest.mark.parametrize("key", SWITCHES)
@pytest.mark.parametrize("value", [True, False])
def test_a_switch_is_turned_on_and_off(key, value, place, capsys):
    """A switch has a flag for each."""
    (place / "c.yaml").write_text(dump_yaml(dump(config_of({key: not value}))))
    command = train_command(config_of({key: value}), config=Path("c.yaml"))
    assert typed_again(command, capsys) == config_of({key: value}).model_dump(mode="json")


@pytest.mark.parametrize("milestones", [[3], [3, 5]])
def test_a_list_is_typed_with_commas(milestones, capsys):
    """As a flag and as a value of a grid."""
    values = {"schedule": "multistep", "milestones": milestones, "epochs": 9}
    command = train_command(config_of(values))
    assert typed_again(command, capsys) == config_of(values).model_dump(mode="json")


def test_a_default_by_the_data_is_taken_back(capsys):
    """Photos that are kept larger by default, and a run that kept none of them so."""
    given = Layer(OWN | {"augment": "photo", "image_size": 32}, {})
    given = Layer(given.values, dict.fromkeys(given.values, "given"))
    usual = resolve([given], facts_of=facts_with_start).config
    assert usual.crop_from == 37
    wanted = usual.model_copy(update={"crop_from": None})
    command = train_command(wanted)
    assert "--crop-from none" in command
    assert typed_again(command, capsys) == wanted.model_dump(mode="json")


def test_the_words_of_flags_are_those_of_their_values():
    """None is typed as `none`, and a switch as its flag."""
    values = {"crop_from": None, "compile": False, "milestones": (3, 5), "class_weights": {"a": 2}}
    assert shlex.join(flag_words(values)) == (
        "--crop-from none --no-compile --milestones 3,5 --class-weights a=2"
    )
