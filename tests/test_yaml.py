"""The YAML reader: YAML 1.2 numbers, no duplicates, no tags, no tracebacks."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsm_cli.config.yaml import read_mapping
from lmsm_cli.errors import LmsmError


def read(tmp_path, text):
    """Return the values of a YAML text."""
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return {key: entry.value for key, entry in read_mapping(file).items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("10", 10),
        ("-3", -3),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("12:30", "12:30"),
        ("null", None),
        ("~", None),
        ("'1'", "1"),
        ("[1, 2]", (1, 2)),
        ("2026-01-01", "2026-01-01"),
        ("", None),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path, text, value):
    """1e-4 is a number, `no` a word, 12:30 no base-60 number, a leading zero not octal."""
    found = read(tmp_path, f"key: {text}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_lines_are_counted_from_one(tmp_path):
    """Each value knows its line, comments and blanks included."""
    file = tmp_path / "c.yaml"
    file.write_text("# comment\n\na: 1\nb: 2\n")
    assert {key: entry.line for key, entry in read_mapping(file).items()} == {"a": 3, "b": 4}


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff"])
def test_an_empty_file_is_an_empty_config(tmp_path, text):
    """No keys, no mistake; a byte-order mark does not count."""
    assert read(tmp_path, text) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", ":2: 'a' is given twice, before on line 1"),
        ("- a\n- b\n", ":1: expected `key: value` lines"),
        ("a: {b: {c: 1}}\n", ":1: neither a plain value"),
        ("a:\n  b: 1\n  b: 2\n", ":3: 'b' is given twice"),
        ("a: [[1]]\n", ":1: neither a plain value"),
        ("a: 'open\n", ":2:1:"),
        ("a: b: c\n", ":1:5:"),
        ("a: 1\n\tb: 2\n", ":2:1: found "),
        ("a: !!python/object/apply:os.system ['true']\n", ":1: neither a plain value"),
        ("!!python/object/apply:os.system ['true']\n", ":1: expected `key: value` lines"),
        ("a: !!python/name:os.system x\n", "could not determine a constructor"),
        ("a: 1\nb: !!int abc\n", ":2: 'abc' is no int"),
        ("a: !!bool foo\n", ":1: 'foo' is no bool"),
        ("a: !!timestamp x\n", ":1: 'x' is no timestamp"),
        ("a: [1, !!float x]\n", ":1: 'x' is no float"),
        ("1: a\n", "the key 1 is not a name"),
        ("a: *nowhere\n", "undefined alias"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, text, message):
    """Whatever is no flat mapping of plain values is refused with its place."""
    with pytest.raises(LmsmError) as error:
        read(tmp_path, text)
    assert "c.yaml" in str(error.value)
    assert message in str(error.value)


def test_missing_binary_and_huge_files_are_refused(tmp_path):
    """A path that is no text file is a message, not a traceback."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_bytes(b"a" * 1_000_001)
    for name, message in (
        ("none", "cannot be read"),
        ("binary", "not UTF-8"),
        ("huge", "larger than"),
    ):
        with pytest.raises(LmsmError, match=message):
            read_mapping(tmp_path / name)


@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    """No text makes the reader fail in another way than by LmsmError."""
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(text, encoding="utf-8")
    with contextlib.suppress(LmsmError):
        assert isinstance(read_mapping(file), dict)
