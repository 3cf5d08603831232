"""`lmsm presets`: what is listed, shown, copied and refused."""

import json

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.config.resolve import Layer, preset_names, preset_path, resolve
from tests.conftest import printed_json


def test_the_bare_command_lists(capsys):
    """`lmsm presets` is `lmsm presets list`, as a table and as JSON."""
    outputs = []
    for words in (["presets"], ["presets", "list"]):
        assert main(words) == 0
        outputs.append(capsys.readouterr().out)
        listed = printed_json(capsys, *words)
        assert list(listed) == preset_names()
        assert listed["digits"][0] == "lmsm train --preset digits"
    assert outputs[0] == outputs[1]
    assert "balanced-vgg16" in outputs[0]


@pytest.mark.parametrize("name", preset_names())
def test_show_prints_the_file(capsys, name):
    """`presets show` gives the very text of the file."""
    assert main(["presets", "show", name]) == 0
    assert capsys.readouterr().out == preset_path(name).read_text(encoding="utf-8")


def test_a_copy_trains_as_the_preset(tmp_path, monkeypatch, capsys):
    """`presets copy` keeps the file byte by byte, says how to use it, and gives the same config."""
    monkeypatch.chdir(tmp_path)
    assert main(["presets", "copy", "digits"]) == 0
    assert "lmsm train --config digits.yaml" in capsys.readouterr().out
    copy = tmp_path / "digits.yaml"
    assert copy.read_bytes() == preset_path("digits").read_bytes()
    assert resolve([Layer.of_file(copy)]).config == resolve([Layer.of_preset("digits")]).config
    assert [path.name for path in tmp_path.iterdir()] == ["digits.yaml"]


def test_a_copy_goes_where_it_is_sent(tmp_path, capsys):
    """FILE is the file's name, or a folder for it; a name with a blank is quoted in the hint."""
    assert main(["presets", "copy", "digits", str(tmp_path)]) == 0
    assert (tmp_path / "digits.yaml").is_file()
    assert main(["presets", "copy", "digits", str(tmp_path / "my own.yaml")]) == 0
    assert f"--config '{tmp_path / 'my own.yaml'}'" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["copy", "digits"], ["schema"]])
def test_a_file_is_replaced_only_by_force(tmp_path, capsys, words):
    """What is there already stays, untouched, without --force."""
    file = tmp_path / "mine.txt"
    file.write_text("years of work")
    command = ["presets", *words, str(file)]
    assert main(command) == 2
    assert f"{file} is there already" in capsys.readouterr().err
    assert file.read_text() == "years of work"
    assert main([*command, "--force"]) == 0
    assert file.read_text() != "years of work"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["digits"], 2, "to print that preset: lmsm presets show digits"),
        (["digit"], 2, "(did you mean 'digits'?); to print that preset: lmsm presets show digits"),
        (["shwo"], 2, "did you mean 'show'?"),
        (["qqq"], 2, "known: copy, list, schema, show"),
        (["show", "digit"], 2, "did you mean 'digits'?"),
        (["copy", "digit"], 2, "did you mean 'digits'?"),
        (["copy", "digits", "nowhere/x.yaml"], 6, "nowhere"),
        (["schema", "nowhere/x.json"], 6, "nowhere"),
    ],
)
def test_mistakes_name_the_way_out(tmp_path, monkeypatch, capsys, words, code, message):
    """A mistake, the command of before included, says what to type; nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert main(["presets", *words]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_the_schema_is_printed_or_written(tmp_path, capsys):
    """`presets schema` prints what `presets schema FILE` writes, and says how editors find it."""
    assert main(["presets", "schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    file = tmp_path / "lmsm.schema.json"
    assert main(["presets", "schema", str(file)]) == 0
    assert f"# yaml-language-server: $schema={file}" in capsys.readouterr().out
    assert json.loads(file.read_text()) == printed
