"""Numbers by class: what the flag, a file and a sweep take, and what is refused."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.commands.options import train_command
from lmsm_cli.config import Config, dump_yaml
from lmsm_cli.config.by_class import format_by_class, parse_by_class
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.errors import LmsmError
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.sweeps.grid import parse_axes

SMALL = ["--preset", "digits", "--epochs", "1", "--threads", "1", "--quiet"]


def config_of(**flags):
    """Return the config of some flags."""
    return resolve([Layer.of_flags(flags)]).config


@given(st.dictionaries(st.text(min_size=1), st.floats(1e-6, 1e6), min_size=1))
@example({"{": 1.0})
def test_every_map_of_numbers_has_a_text(numbers):
    """Whatever the classes are called: the text of a map gives the map again, to 12 digits.

    A class whose name begins with a brace looks like JSON.
    """
    found = parse_by_class(format_by_class(numbers))
    assert {name: float(number) for name, number in found.items()} == pytest.approx(numbers)


def test_text_and_map_give_the_same(tmp_path):
    """A flag and a YAML map are one thing, and config.yaml repeats it."""
    file = tmp_path / "weights.yaml"
    file.write_text("class_weights: {cat: 2, 1: 0.5}\n")
    config = resolve([Layer.of_file(file)]).config
    assert config.class_weights == {"cat": 2.0, "1": 0.5}
    assert config == config_of(class_weights="cat=2,1=0.5")
    again = tmp_path / "config.yaml"
    again.write_text(dump_yaml(config))
    assert resolve([Layer.of_file(again)], is_saved=True).config == config


def test_a_class_with_a_comma_is_named_in_json_or_in_a_map():
    """Where a name holds a comma or `=`, the text is JSON, in a repeated command too."""
    config = config_of(class_weights='{"a,b": 2}')
    assert config.class_weights == {"a,b": 2.0}
    assert """--class-weights '{"a,b": 2.0}'""" in train_command(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat=0", "class_weights of 'cat' is '0': should be greater than 0"),
        ("cat=-1", "greater than 0"),
        ("cat=nan", "finite"),
        ("cat=inf", "finite"),
        ("cat", "'cat' is not CLASS=NUMBER"),
        ("cat=1,cat=2", "cat is given twice"),
        ('{"cat": 1, "cat": 2}', "cat is given twice"),
        ("{cat", "this is no JSON"),
        ("cat=x", "class_weights of 'cat' is 'x'"),
    ],
)
def test_bad_numbers_are_refused(text, message):
    """What is no positive number of a class is refused with its class."""
    with pytest.raises(LmsmError, match=message):
        config_of(class_weights=text)


def test_auto_is_short_for_inverse():
    """`auto` is written as reweight inverse, over a lower layer and with deferral, but not beside a
    reweight."""
    lower = Layer({"reweight": "effective", "reweight_beta": 0.9}, {})
    resolved = resolve([lower, Layer.of_flags({"class_weights": "auto", "rebalance_from": 3})])
    assert resolved.config == Config(reweight="inverse", rebalance_from=3)
    assert resolved.origins["reweight"] == "--class-weights"
    with pytest.raises(LmsmError, match="auto is short for reweight inverse, and reweight none"):
        config_of(class_weights="auto", reweight="none")


def test_weights_by_hand_can_be_deferred():
    """rebalance_from needs something to defer, and class weights are something."""
    assert config_of(class_weights="cat=2", rebalance_from=3).rebalance_from == 3
    with pytest.raises(LmsmError, match="class_weights or sampling"):
        config_of(rebalance_from=3)


def test_margins_of_classes_need_a_margin():
    """A loss without a margin refuses them and names those that have one."""
    with pytest.raises(LmsmError, match=r"no meaning with loss 'softmax'.*lsoftmax, asoftmax"):
        config_of(class_margins="frog=3")
    assert config_of(class_margins="frog=3", loss="ldam").class_margins == {"frog": 3.0}


@pytest.mark.parametrize(
    ("loss", "margin", "way_out"),
    [
        ("lsoftmax", "0.5", "at least 1"),
        ("cosface", "3", "at most 2"),
        ("ldam", "2.5", "at most 2"),
    ],
)
def test_a_margin_out_of_range_is_told_with_the_name_of_its_class(loss, margin, way_out):
    """Not with the place of the class, which nobody typed."""
    spec = ModelSpec("paper-2d", "none", loss, class_margins={"frog": float(margin)}, image_size=8)
    with pytest.raises(LmsmError, match=f"the margin of class 'frog' is {margin}.*{way_out}"):
        build_classifier(
            spec,
            classes=("cat", "frog"),
            mean=(0.5,),
            std=(0.5,),
            class_counts=torch.tensor([4, 2]),
        )


def test_a_sweep_varies_weights():
    """A text of several classes is one value; semicolons part two."""
    (axis,) = parse_axes(["class_weights=cat=2,dog=3"], [])
    assert axis.options == ({"class_weights": "cat=2,dog=3"},)
    (axis,) = parse_axes(["class_weights=cat=2,dog=3;none"], [])
    assert axis.options == ({"class_weights": "cat=2,dog=3"}, {"class_weights": "none"})


def test_a_run_keeps_its_weights_and_margins(tmp_path, capsys):
    """config.yaml and checkpoint have them, a resumed run keeps them, unknown classes are refused
    before there is a run folder."""
    chosen = ["--loss", "lsoftmax:margin=2", "--class-weights", "1=2", "--class-margins", "3=3"]
    assert main(["train", *SMALL, *chosen, "--out", str(tmp_path / "runs")]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert main(["resume", str(run), "--epochs", "2", "--quiet"]) == 0
    written = Layer.of_file(run / "config.yaml").values
    assert written["class_weights"] == {"1": 2.0}
    assert written["class_margins"] == {"3": 3.0}
    assert load_checkpoint(run).head.margin.tolist() == [2, 2, 2, 3, *[2] * 6]
    for flag in ("--class-weights", "--class-margins"):
        command = ["train", *SMALL, "--loss", "lsoftmax", flag, "11=2"]
        assert main([*command, "--out", str(tmp_path / "no")]) == 2
        assert "there is no class '11'" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
