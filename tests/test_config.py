"""Config: precedence, strictness, derived defaults, messages."""

import re
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError
from torchvision import models

from lmsm_cli.config import ADDED_KEYS, DEPENDENT_OPTIONS, Config, dump, dump_yaml, panels
from lmsm_cli.config.nets import OWN_NETS
from lmsm_cli.config.resolve import Layer, preset_names, resolve
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.models.backbones import BACKBONES


def flags(**values):
    """Return a layer of flags."""
    return Layer.of_flags(values)


def problems_of(*layers):
    """Return the lines of the message that the layers are refused with."""
    with pytest.raises(LmsmError) as error:
        resolve(layers, check_loss)
    assert error.value.exit_code == 2
    return str(error.value).splitlines()


def test_precedence_is_default_preset_file_flag(tmp_path):
    """Each higher layer wins, and --show-config can say which one did."""
    file = tmp_path / "my.yaml"
    file.write_text("lr: 0.01\nepochs: 3\n")
    resolved = resolve(
        [Layer.of_preset("imbalanced-resnet18"), Layer.of_file(file), flags(epochs="5")]
    )
    config, origins = resolved.config, resolved.origins
    assert (config.momentum, origins["momentum"]) == (0.9, "default")
    assert config.batch_size == 32
    assert origins["batch_size"].startswith("preset imbalanced-resnet18:")
    assert (config.lr, origins["lr"]) == (0.01, f"{file}:1")
    assert (config.epochs, origins["epochs"]) == (5, "--epochs")


def test_imbalanced_means_cifar10_exp_a_tenth():
    """`imbalanced` brings its profile and factor, and says so; flags still win."""
    resolved = resolve([flags(dataset="imbalanced")])
    assert (resolved.config.imbalance, resolved.config.factor) == ("exp", 0.1)
    assert resolved.origins["imbalance"] == "dataset imbalanced"
    step = resolve([flags(dataset="imbalanced", imbalance="step", factor="0.01")]).config
    assert (step.imbalance, step.factor) == ("step", 0.01)


def test_data_dir_comes_from_the_environment(monkeypatch):
    """LMSM_DATA_DIR stands below every other layer."""
    monkeypatch.setenv("LMSM_DATA_DIR", "/somewhere")
    assert str(resolve([]).config.data_dir) == "/somewhere"
    assert resolve([]).origins["data_dir"] == "environment LMSM_DATA_DIR"
    assert str(resolve([flags(data_dir="here")]).config.data_dir) == "here"


def test_the_neck_follows_the_model_alone():
    """Every loss gets the same neck, so that a comparison differs in the loss alone."""
    for loss in ("softmax", "lsoftmax"):
        assert resolve([flags(loss=loss)]).config.neck == "bn"
        assert resolve([flags(loss=loss, model="resnet32")]).config.neck == "bn"
        assert resolve([flags(loss=loss, model="paper-2d")]).config.neck == "linear"


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        ([{"loss": "lsoftmax:margin=4", "margin": 4}], "lsoftmax:margin=4"),
        (
            [{"loss": "lsoftmax:margin=2,lambda_min=1"}, {"margin": 3}],
            "lsoftmax:margin=3,lambda_min=1",
        ),
        ([{"loss": "lsoftmax", "margin": 3}, {"loss": "softmax"}], "softmax"),
    ],
)
def test_margin_is_short_for_the_specs(layers, loss):
    """`margin` sets the option of the loss in force at its layer, and goes with that loss."""
    assert resolve([flags(**layer) for layer in layers], check_loss).config.loss == loss


def test_a_written_config_reads_back(tmp_path):
    """config.yaml of a run, given to --config, is the same config."""
    config = resolve(
        [Layer.of_preset("lsoftmax-resnet18"), flags(schedule="multistep", milestones="3,7")]
    ).config
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert resolve([Layer.of_file(tmp_path / "config.yaml")], check_loss).config == config


@pytest.mark.parametrize(
    "name",
    ["08", "1e5", "1e-3", "0o7", "0777", "~", "true", "no", "12:30", "2026-11-26", "1_000", ".5"],
)
def test_a_folder_named_like_a_number_stays_a_name(tmp_path, name):
    """What YAML 1.1 or 1.2 takes for something else is quoted, whoever reads the file."""
    config = resolve([flags(out=name)]).config
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert resolve([Layer.of_file(tmp_path / "config.yaml")]).config == config
    assert yaml.safe_load(dump_yaml(config)) == dump(config)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name):
    """Every shipped preset resolves, loss spec included, and opens with its command."""
    layer = Layer.of_preset(name)
    assert resolve([layer], check_loss).config.dataset == layer.values["dataset"]


def test_all_mistakes_are_found_at_once(tmp_path):
    """One message lists every mistake with its place and the nearest right thing."""
    file = tmp_path / "bad.yaml"
    file.write_text("modle: resnet18\nepochs: 0\nmodel: resnet81\n")
    found = problems_of(Layer.of_file(file), flags(lr="nan", loss="lsoftmx"))
    assert len(found) == 5
    assert any(f"{file}:1: unknown key 'modle' (did you mean 'model'?)" in line for line in found)
    assert any(f"{file}:2: epochs is 0" in line for line in found)
    assert any(
        f"{file}:3: model is 'resnet81': there is no such net (did you mean 'resnet18'?)" in line
        for line in found
    )
    assert any("--lr: lr is 'nan'" in line for line in found)
    assert any("did you mean 'lsoftmax'?" in line for line in found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "cifar"}, "(did you mean 'cifar10' or 'cifar100'?)"),
        ({"dataset": "imbalanced", "factor": "0"}, "--factor: factor is '0'"),
        ({"dataset": "imbalanced", "factor": "1.5"}, "--factor: factor is '1.5'"),
        ({"dataset": "imbalanced", "factor": "100"}, "at most 1: 1/100 is 0.01"),
        ({"dataset": "imbalanced", "factor": "inf"}, "--factor: factor is 'inf'"),
        ({"dataset": "imbalanced", "factor": "nan"}, "--factor"),
        ({"epochs": "many"}, "--epochs: epochs is 'many'"),
        ({"epochs": "2.5"}, "--epochs: epochs is '2.5'"),
        ({"lr": "inf"}, "--lr"),
        ({"lr": "-1"}, "--lr"),
        ({"batch_size": "1"}, "--batch-size"),
        ({"margin": "0", "loss": "lsoftmax"}, "margin is 0"),
        (
            {"margin": "3", "loss": "lsoftmax:margin=2"},
            "--margin: margin is 3, and loss 'lsoftmax:margin=2' has 2: leave one of them out",
        ),
        ({"loss": "my/own:Loss"}, "a loss of your own is written module:Class"),
        (
            {"dataset": "digits", "image_size": "64"},
            "no effect with dataset 'digits'; take 'folder'",
        ),
        ({"validation": "0", "patience": "2"}, "patience 2 has no effect with validation 0"),
        ({"validation": "0", "best_tolerance": "0.5"}, "best_tolerance 0.5 has no effect with"),
        ({"epochs": "5", "patience": "5"}, "patience 5 has no effect with 5 epochs, of which"),
        ({"margin": "2"}, "loss 'softmax' has no option 'margin'"),
        ({"device": "gpu"}, "'gpu' is not auto, cpu, cuda or cuda:N"),
        ({"dataset": "balanced", "imbalance": "exp"}, "'balanced' excludes an imbalance"),
        ({"factor": "0.5"}, "factor 0.5 has no effect with imbalance 'none'; take 'exp' or 'step'"),
        ({"schedule": "multistep", "milestones": "9,3"}, "do not rise"),
        ({"milestones": "a"}, "milestones"),
        ({"loss": "lsoftmax:margin=4,"}, "is not key=value"),
        ({"reweight": "effectiv"}, "did you mean 'effective'?"),
        ({"sampling": "balance"}, "did you mean 'balanced'?"),
        ({"reweight": "effective", "reweight_beta": "1"}, "--reweight-beta: reweight_beta is '1'"),
        ({"reweight": "effective", "reweight_beta": "-0.1"}, "--reweight-beta"),
        ({"reweight_beta": "0.99"}, "reweight_beta 0.99 has no effect with reweight 'none'"),
        ({"reweight": "inverse", "reweight_beta": "0.99"}, "no effect with reweight 'inverse'"),
        (
            {"schedule": "cosine", "milestones": "2,3"},
            "milestones 2,3 has no effect with schedule 'cosine'; take 'multistep'",
        ),
        (
            {"schedule": "multistep", "step_size": "7"},
            "step_size 7 has no effect with schedule 'multistep'; take 'step'",
        ),
        (
            {"schedule": "constant", "gamma": "0.3"},
            "gamma 0.3 has no effect with schedule 'constant'; take 'step' or 'multistep'",
        ),
        ({"momentum": "0.5"}, "momentum 0.5 has no effect with optimizer 'adam'; take 'sgd'"),
        ({"rebalance_from": "0", "sampling": "balanced"}, "--rebalance-from"),
        ({"rebalance_from": "2"}, "rebalance_from 2 has no effect without a reweight"),
        ({"rebalance_from": "11", "reweight": "inverse"}, "after the last of the 10 epochs"),
    ],
)
def test_bad_values_are_explained(values, message):
    """Each bad value is refused with exit code 2 and a message that names it."""
    assert any(message in line for line in problems_of(flags(**values)))


def test_rebalancing_in_the_last_epoch_alone_is_allowed():
    """--rebalance-from counts from 1 to the number of epochs, for either way of rebalancing."""
    for choice in ({"reweight": "effective", "reweight_beta": "0.99"}, {"sampling": "balanced"}):
        assert resolve([flags(**choice, rebalance_from="10")]).config.rebalance_from == 10


def test_true_is_not_a_number(tmp_path):
    """`epochs: true` is a mistake, not one epoch."""
    file = tmp_path / "c.yaml"
    file.write_text("epochs: true\n")
    assert "true and false are not numbers" in problems_of(Layer.of_file(file))[0]


@pytest.mark.parametrize("key", [*Config.model_fields, "margin"])
@pytest.mark.parametrize("value", ["[1, 2]", "{a: 1}", "5", "1.5", "x", "''", "true", "null", "[]"])
def test_no_mistake_is_told_in_the_words_of_python(tmp_path, key, value):
    """Whatever a key is given, the message has its line, and values as the file has them."""
    file = tmp_path / "c.yaml"
    file.write_text(f"{key}: {value}\n")
    try:
        resolve([Layer.of_file(file)], check_loss)
    except LmsmError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{file}:1: ")
            words = (
                r"class '|tuple|dictionary|instance|valid |None|True|\bstring|integer|\(1, 2\)|{'"
            )
            assert not re.search(words, line.removeprefix(str(file))), line


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("milestones: 5", "milestones is 5: give whole numbers, as in 160,180"),
        ("class_weights: [1, 2]", "class_weights is [1, 2]: give a number for each class, as in"),
        ("epochs: x", "epochs is 'x': give a whole number, as in 3"),
        ("loss: 'lsoftmax:margin=nan'", "loss 'lsoftmax:margin=nan': "),
        ("margin: [1, 2]", "margin is [1, 2]: give a number, as in 4, or tail or auto"),
        ("model: resnet18\nschedule: multistep\nmilestones: [5, 3]", "milestones 5,3 do not rise"),
    ],
)
def test_a_mistake_says_what_the_key_takes_and_where_it_stands(tmp_path, line, told):
    """So does one in how keys go together: it stands at the first that it names."""
    file = tmp_path / "c.yaml"
    file.write_text(line)
    (found,) = problems_of(Layer.of_file(file))
    assert found.startswith(f"{file}:{len(line.splitlines())}: {told}")


@pytest.mark.parametrize("key", ["out", "data_dir", "image_list", "class_names", "pretrained"])
def test_an_empty_path_is_none(tmp_path, key):
    """It is not the current folder, neither in a file nor from a script."""
    file = tmp_path / "c.yaml"
    file.write_text(f"{key}: ''\n")
    (told,) = problems_of(Layer.of_file(file))
    assert told == f"{file}:1: {key} is '': give a path; . is the current folder"
    file.write_text(f"{key}: .\n")
    dataset = flags(dataset="list", image_list="x.csv")
    assert str(getattr(resolve([dataset, Layer.of_file(file)]).config, key)) == "."


def test_unknown_preset_names_the_nearest():
    """A misspelt preset is refused with the one that was meant."""
    with pytest.raises(LmsmError, match="did you mean 'balanced-resnet18'"):
        Layer.of_preset("balanced-resnet-18")


def test_all_presets_that_begin_so_are_named():
    """Half a name stands for all that go on from it, not for the one that looks most alike."""
    begun = [name for name in preset_names() if name.startswith("imbalanced")]
    with pytest.raises(LmsmError) as caught:
        Layer.of_preset("imbalanced")
    assert len(begun) > 1
    assert re.findall("'(.*?)'", str(caught.value)) == ["imbalanced", *begun]


def test_models_of_the_config_are_those_that_exist():
    """Config's list of nets, which completion offers without torch, has ours and torchvision's."""
    offered = set(Config.model_json_schema()["properties"]["model"]["anyOf"][0]["enum"])
    assert set(OWN_NETS) == set(BACKBONES) <= offered
    assert offered - set(BACKBONES) <= set(models.list_models(module=models))


def test_every_field_has_help_and_a_panel():
    """A field's docstring is its flag's help: none is missing."""
    for name, field in Config.model_fields.items():
        assert field.description, name
        assert panels()[name], name


def test_an_option_goes_with_the_choice_that_a_flag_replaces(tmp_path):
    """A file's gamma belongs to its schedule: another schedule drops it, unless given again."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "schedule: multistep\nmilestones: [2, 3]\ngamma: 0.3\noptimizer: sgd\nmomentum: 0.5\n"
    )
    stepped = resolve([Layer.of_file(file), flags(schedule="step")]).config
    assert (stepped.gamma, stepped.milestones, stepped.momentum) == (0.3, (160, 180), 0.5)
    plain = resolve([Layer.of_file(file), flags(schedule="cosine", optimizer="adam")])
    assert (plain.config.gamma, plain.config.momentum) == (0.9, 0.9)
    assert plain.origins["gamma"] == "default"
    assert (
        "gamma 0.3 has no effect"
        in problems_of(Layer.of_file(file), flags(schedule="cosine", gamma="0.3"))[0]
    )


def test_an_option_that_had_no_effect_is_no_choice(tmp_path):
    """A balanced run's config.yaml has `factor: 1.0`: with a profile it is 0.1 again."""
    (tmp_path / "run.yaml").write_text(
        dump_yaml(resolve([Layer.of_preset("digits"), flags(imbalance="none")]).config)
    )
    layers = [Layer.of_file(tmp_path / "run.yaml"), flags(imbalance="exp")]
    assert resolve(layers).config.factor == 0.1
    assert resolve([*layers, flags(factor="0.3")]).config.factor == 0.3
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("imbalance: none\nfactor: 0.3\n")
    assert resolve([Layer.of_file(chosen), flags(imbalance="exp")]).config.factor == 0.3


def test_options_are_of_choices_that_exist():
    """The table of options names fields and their values."""
    for key, (choice, useful) in DEPENDENT_OPTIONS.items():
        assert key in Config.model_fields
        assert set(useful) < set(get_args(Config.model_fields[choice].annotation))


def test_switching_the_profile_off_takes_the_presets_factor_along():
    """`--preset imbalanced-resnet18 --imbalance none` is the balanced set, not a mistake."""
    config = resolve([Layer.of_preset("imbalanced-resnet18"), flags(imbalance="none")]).config
    assert (config.imbalance, config.factor) == ("none", 1.0)
    assert "has no effect" in problems_of(flags(imbalance="none", factor="0.1"))[0]


@pytest.mark.parametrize("loss", ["lsoftmax", "asoftmax:margin=4", "cosface", "arcface", " ldam"])
def test_a_bias_is_refused_where_the_margin_is_on_angles(loss):
    """It has no angle: the message names the loss and those that take one."""
    (line,) = problems_of(flags(loss=loss, head_bias=True))
    assert f"head_bias has no meaning with loss {loss.strip().partition(':')[0]!r}" in line
    assert "it goes with softmax," in line
    assert resolve([flags(loss=loss)], check_loss).config.head_bias is False


def test_keys_that_were_added_later_have_defaults():
    """Each is a key, and a config file from before it gives its default."""
    assert set(ADDED_KEYS) <= Config.model_fields.keys()
    written = {key: value for key, value in dump(Config()).items() if key not in ADDED_KEYS}
    assert Config.model_validate(written) == Config()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("softmax:label_smoothing=0.1", "smoothed twice"),
        ("lsoftmax:class_chunk=64", "needs the scores of all classes at once"),
    ],
)
def test_a_loss_that_excludes_smoothed_labels_is_refused(loss, words):
    """--label-smoothing beside softmax's own option, or with chunks of classes, before any work."""
    assert Config(loss=loss, label_smoothing=0.0).loss == loss
    with pytest.raises(ValidationError, match=words):
        Config(loss=loss, label_smoothing=0.1)
