"""Whatever stands in a config, a loss spec, a run or a checkpoint: only LmsmErrors come out."""

import contextlib
import io
import json
import math
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config, dump_yaml
from lmsm_cli.config.resolve import Layer, preset_names, preset_path, resolve
from lmsm_cli.errors import CheckpointError, LmsmError
from lmsm_cli.losses.options import options_of
from lmsm_cli.losses.registry import HEADS, build_head, check_loss
from lmsm_cli.losses.spec import format_spec, parse_spec
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.display import SILENT
from lmsm_cli.training.run import start_run
from tests.conftest import words
from tests.test_checkpoint import zipped

# Derandomized, so that a test that passed passes again; a deadline would measure the machine.
fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)

NUMBERS = [
    *words("0 -1 1 2 0.5 1e-320 1000 1e6 1e9 1e300 1e999 -1e999 nan inf"),
    "9" * 400,
    "9" * 5000,
    "1_0",
    "\u0663",
]
YAML_PIECES = [
    b"\xef\xbb\xbf",
    b"\0",
    b"\t",
    b"\xff",
    b"\xed\xa0\x80",
    b"&a ",
    b"*a",
    b"!!float ",
    b"!!timestamp ",
    b"!!python/object/apply:os.system ",
    b"!!binary ",
    b"!!set ",
    b"[",
    b"{",
    b"? ",
    b": ",
    b"- ",
    b"\n",
    b"|\n",
    b">9\n",
    b'"\\ud800"',
    b'"\\UFFFFFFFF"',
    b'"\\0"',
    b"%YAML 1.1\n",
    b"---\n",
    b"...\n",
    b"<<: ",
    b"2026-01-01",
    b".inf",
    b"#",
    *(text.encode() for text in NUMBERS),
]
JSON_PIECES = [
    b"[",
    b"{",
    b"}",
    b'"',
    b"\n",
    b"null",
    b"NaN",
    b"1e999",
    b'"\\ud800"',
    b"\xff",
    b"\0",
    b"9" * 5000,
    b"[" * 3000,
]


@st.composite
def damaged(draw, content, pieces=()):
    """Draw the bytes with up to four damages: flipped, cut off, left out, or put between."""
    content = bytearray(content)
    additions = st.binary(min_size=1, max_size=8)
    if pieces:
        additions |= st.sampled_from(pieces)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "remove", "insert", "insert"]))
        if kind == "flip" and place < len(content):
            content[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place:]
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 20))]
        else:
            content[place:place] = draw(additions)
    return bytes(content)


# --- configs


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """The path of a config that tests write."""
    return tmp_path_factory.mktemp("config") / "config.yaml"


def read_config(file, content):
    """Read the bytes as a config, checks of the loss included; an LmsmError must say something."""
    file.write_bytes(content)
    try:
        return resolve([Layer.of_file(file)], check_loss).config
    except LmsmError as error:
        message = str(error)
    assert message.strip()
    return None


CONFIGS = [
    dump_yaml(Config()).encode(),
    *(preset_path(name).read_bytes() for name in preset_names()),
]
ONE_LINE = st.builds(
    lambda key, value: f"{key}: {value}\n".encode("utf-8", "surrogatepass"),
    st.sampled_from([*Config.model_fields, "margin"]),
    st.sampled_from([*NUMBERS, *(piece.decode("latin-1") for piece in YAML_PIECES)])
    | st.text(max_size=20),
)


@fuzz
@given(
    content=st.binary(max_size=300)
    | st.sampled_from(CONFIGS).flatmap(lambda text: damaged(text, YAML_PIECES))
    | st.lists(ONE_LINE, max_size=4).map(b"".join)
)
@example(content=b'loss: "\\UFFFFFFFF"')
@example(content=b'loss: "\\U00110000"')
@example(content=b"%YAML " + b"1" * 5000 + b".1\n---\na: 1")
@example(content=b"lr: !!float " + b":".join([b"1"] * 400))
@example(content=b"a: &a [*a]")
@example(content=b"a: " + b"[" * 90_000)
@example(content=b"- " * 40_000)
@example(content="\n".join(" " * i + "a:" for i in range(400)).encode())
@example(content=b'"\\ud800": 1')
def test_any_config_is_read_or_refused(config_file, content):
    """Random bytes and damaged presets give a checked config or an LmsmError that says why."""
    config = read_config(config_file, content)
    if config:
        assert read_config(config_file, dump_yaml(config).encode()) == config


@pytest.mark.parametrize("tag", ["timestamp 2026-01-01", "binary aGFsbG8=", "set", "omap"])
def test_tags_make_no_objects(config_file, tag):
    """A tag that would make a date, bytes or a collection is refused where it stands."""
    config_file.write_text(f"seed: 1\nloss: !!{tag}\n")
    with pytest.raises(LmsmError, match=rf":2: a {tag.split()[0]} is no plain value"):
        Layer.of_file(config_file)


@pytest.mark.parametrize("value", ['"a\\0b"', '"\\ud800"'])
@pytest.mark.parametrize("key", ["out", "data_dir", "pretrained"])
def test_names_that_no_file_can_have_are_refused(config_file, key, value):
    """A NUL or half a surrogate pair in a path is found with the config, not later."""
    config_file.write_text(f"{key}: {value}\n")
    with pytest.raises(LmsmError, match=r"no file can have this name|invalid Unicode"):
        resolve([Layer.of_file(config_file)])


def test_a_list_behind_many_aliases_is_one_list(config_file):
    """10,000 aliases of 10,000 numbers are not 100 million numbers."""
    config_file.write_text(
        f"a: &a [{'1,' * 10_000}]\n" + "".join(f"k{i}: *a\n" for i in range(7_000))
    )
    values = Layer.of_file(config_file).values
    assert len({id(value) for value in values.values()}) == 1
    assert len(values["k6999"]) == 10_000


def test_an_endless_file_is_refused(config_file):
    """Of a file without an end no more is read than a config may have."""
    with pytest.raises(LmsmError, match="larger than"):
        Layer.of_file(Path("/dev/zero"))


@pytest.mark.parametrize("command", ["compare", "eval", "resume", "train"])
def test_a_name_that_is_too_long_is_a_message(tmp_path, monkeypatch, capsys, command):
    """Where the system refuses a path, its words come out with a documented code."""
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "digits", "--model", "paper-mnist", "--out"] if command == "train" else []
    assert main([command, *flags, "x" * 300]) in (2, 4, 6)
    assert "too long" in capsys.readouterr().err


def test_a_schedule_without_an_end_is_refused(capsys):
    """More epochs than anybody trains are a mistake, not a table that fills the memory."""
    assert main(["schedule", "--epochs", "1" + "0" * 30]) == 2
    assert "epochs" in capsys.readouterr().err


# --- losses

VALUES = st.sampled_from(
    [*NUMBERS, *words("auto none power cosine linear constant exponential free shared")]
) | st.floats(0, 10, allow_subnormal=False).map(str)
OPTIONS = sorted({key for head in HEADS.values() for key in options_of(head)})


@fuzz
@given(
    text=st.text(max_size=60)
    | st.builds(
        lambda name, options: f"{name}:" + ",".join(f"{k}={v}" for k, v in options),
        st.sampled_from([*HEADS, "", ":"]),
        st.lists(
            st.tuples(st.sampled_from(OPTIONS) | st.text(max_size=5), VALUES | st.text(max_size=8)),
            max_size=4,
        ),
    )
)
def test_any_loss_spec_is_taken_or_refused(text):
    """Every text gives a checked loss or an LmsmError; what parses, formats back."""
    with contextlib.suppress(LmsmError):
        assert parse_spec(format_spec(*parse_spec(text))) == parse_spec(text)
    with contextlib.suppress(LmsmError):
        check_loss(text)


@st.composite
def specs(draw):
    """Draw the spec of a loss with options that it has."""
    name = draw(st.sampled_from(sorted(HEADS)))
    known = sorted(options_of(HEADS[name]))
    keys = draw(st.lists(st.sampled_from(known), unique=True, max_size=4)) if known else []
    return format_spec(name, {key: draw(VALUES) for key in keys})


@fuzz
@given(spec=specs(), counts=st.lists(st.integers(1, 10**6), min_size=2, max_size=6))
@example(spec="lsoftmax:margin=1e300", counts=[5, 5])
@example(spec="asoftmax:margin=12345678901234567890", counts=[5, 5])
@example(spec="lsoftmax:margin=auto,margin_max=1e300", counts=[50, 5])
@example(spec="lsoftmax:anneal=cosine,lambda_start=1e308", counts=[5, 5])
@example(spec="cosface:scale=1e308", counts=[5, 5])
@example(spec="vs:tau=1e308", counts=[50, 5])
def test_a_loss_that_is_taken_works(spec, counts):
    """Options are refused, or soon give finite losses and gradients, at any progress."""
    try:
        head = build_head(spec, 3, len(counts), torch.tensor(counts))
    except LmsmError:
        return
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 3, generator=generator, requires_grad=True)
    labels = torch.arange(8) % len(counts)
    for progress in (0.0, 0.3, 1.0):
        losses = head.losses(features, labels, progress)
        losses.sum().backward()
        assert losses.isfinite().all()
        assert features.grad.isfinite().all()
    assert head.logits(features).shape == (8, len(counts))
    assert repr(head)


# --- run folders

RUN_FILES = ("config.yaml", "status.json", "metrics.jsonl", "scores.json")
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), int("9" * 4300), 1.7e308, -1, "0.5", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two runs of one config, and the second's files, which tests damage."""
    out = tmp_path_factory.mktemp("runs")
    config = Config(
        dataset="digits",
        model="paper-2d",
        epochs=1,
        device="cpu",
        precision="fp32",
        threads=1,
        imbalance="exp",
        factor=0.1,
        out=out,
    )
    folder = start_run(config, SILENT, with_plots=False).path
    shutil.copytree(folder, out / "damaged")
    return out, {name: (folder / name).read_bytes() for name in RUN_FILES}


def compare(runs, changes):
    """Write the damaged run, read it and compare: no error, whole output, and JSON that is JSON."""
    out, files = runs
    for name, content in (files | changes).items():
        (out / "damaged" / name).write_bytes(content)
    read_run(out / "damaged")
    for flags in ([], ["--json"]):
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            assert main(["compare", str(out), *flags]) == 0
        assert "Traceback" not in stdout.getvalue() + stderr.getvalue()
    document = json.loads(stdout.getvalue(), parse_constant=lambda text: pytest.fail(text))
    assert document["groups"]


@pytest.mark.slow
@fuzz
@given(data=st.data())
def test_a_run_folder_with_damaged_files_is_described(runs, data):
    """Flipped, missing and added bytes in a file of a run never stop the comparison."""
    name = data.draw(st.sampled_from(RUN_FILES))
    pieces = YAML_PIECES if name == "config.yaml" else JSON_PIECES
    compare(runs, {name: data.draw(damaged(runs[1][name], pieces) | st.binary(max_size=50))})


def places(document):
    """Yield the container and key of every value in a JSON document."""
    keys = document if isinstance(document, dict) else range(len(document))
    for key in keys:
        yield document, key
        if isinstance(document[key], dict | list):
            yield from places(document[key])


@pytest.mark.slow
@fuzz
@given(data=st.data())
def test_a_run_folder_with_json_of_another_shape_is_described(runs, data):
    """Any value in place of another, and any document in place of a file, is noticed."""
    name = data.draw(st.sampled_from(["scores.json", "scores.json", "status.json"]))
    document = json.loads(runs[1][name])
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(list(places(document))))
        if data.draw(st.booleans()):
            container[key] = data.draw(JSON_VALUES)
        elif isinstance(container, dict):
            del container[key]
    whole = data.draw(st.booleans()) or data.draw(JSON_VALUES)
    text = json.dumps(document if whole is True else whole)
    compare(runs, {name: text.replace("Infinity", "1e999").encode()})


SCORED = [
    ("accuracy", "1e999"),
    ("accuracy", "-0.1"),
    ("accuracy", '"0.5"'),
    ("accuracy", "true"),
    ("effective_margin", "1" + "0" * 400),
    ("effective_margin", "1.7e308"),
    ("effective_margin", "[]"),
    ("train_count", '"3"'),
    ("test_count", "9" * 4300),
    ("test_count", "1.5"),
]


@pytest.mark.parametrize(("key", "value"), SCORED)
def test_scores_that_no_run_wrote_are_damage(runs, key, value):
    """Shares outside 0 to 1, texts as counts and numbers beyond floats are left out, and said."""
    out, files = runs
    document = json.loads(files["scores.json"])
    row = document["per_class"][0] if key in document["per_class"][0] else document
    row[key] = "HERE"
    compare(runs, {"scores.json": json.dumps(document).replace('"HERE"', value).encode()})
    assert "scores.json is damaged" in read_run(out / "damaged").problem


@pytest.mark.parametrize(
    "line", [b"lr: .inf", b"lr: .nan", b"milestones: [1, .inf]", b"lr: !!timestamp 2026-01-01"]
)
def test_configs_that_no_run_wrote_are_damage(runs, line):
    """A run's config has no infinities and no dates: they are told, and JSON output stays JSON."""
    compare(runs, {"config.yaml": line})
    assert "config.yaml" in read_run(runs[0] / "damaged").problem


# --- checkpoints

SPEC = {"model": "paper-2d", "neck": "linear", "loss": "lsoftmax:margin=3"}


@pytest.fixture(scope="module")
def state():
    """The state of a small classifier, in the schema without a digest, so that damage gets far."""
    torch.manual_seed(0)
    model = build_classifier(ModelSpec(**SPEC), classes=("cat", "dog"), mean=(0.4,), std=(0.2,))
    return checkpoint.state_of(
        model, SPEC, train_counts=[5, 5], image_shape=[28, 28, 1], epoch=1
    ) | {"schema": 1}


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory):
    """The path of a checkpoint that tests write."""
    return tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"


@pytest.fixture(scope="module")
def sealed(state, tmp_path_factory):
    """The bytes of a checkpoint with its digest."""
    path = tmp_path_factory.mktemp("sealed") / "checkpoint.pt"
    checkpoint.save(state | {"schema": checkpoint.SCHEMA}, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def records(state):
    """The records of a checkpoint's archive, by name; few tensors, so that most is structure."""
    file = io.BytesIO()
    few = {key: value for key, value in state["model"].items() if value.numel() < 50}
    torch.save(state | {"model": few}, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# torch's reader warns of a protocol that it then reads or refuses.
other_protocol = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def load(path, content):
    """Load and restore the bytes as a checkpoint; return whether they are one."""
    path.write_bytes(content)
    try:
        checkpoint.restore(checkpoint.load(path), path)
        return True
    except CheckpointError as error:
        message = str(error)
    assert str(path) in message
    return False


@fuzz
@given(data=st.data())
def test_a_checkpoint_with_damaged_bytes_is_refused_or_whole(checkpoint_file, sealed, data):
    """Flipped, missing and additional bytes anywhere are CheckpointError or do no harm."""
    load(checkpoint_file, data.draw(damaged(sealed) | st.binary(max_size=200)))


@other_protocol
@settings(fuzz, max_examples=500)
@given(data=st.data())
def test_a_checkpoint_with_a_damaged_pickle_is_refused_or_whole(checkpoint_file, records, data):
    """Behind good checksums, damage of the records' contents is CheckpointError or does no harm."""
    name = data.draw(st.sampled_from(["archive/data.pkl"] * 6 + sorted(records)))
    load(checkpoint_file, zipped(records | {name: data.draw(damaged(records[name]))}))


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02J\x01",  # half a number
        b"\x80\x02X\x01\x00",  # half a length
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x0a"
        + (10**22).to_bytes(10, "little")
        + b"\x85R.",  # more than addresses
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x08"
        + (10**18).to_bytes(8, "little")
        + b"\x85R.",  # more than memory
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02" + b"]" * 100_000 + b".",
    ],
)
def test_pickle_bombs_are_refused(checkpoint_file, records, pickled):
    """Pickles that stop early, call a program or want too much memory are CheckpointError."""
    assert not load(checkpoint_file, zipped(records | {"archive/data.pkl": pickled}))


class Bomb:
    """An object whose unpickling writes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return exec, (f"open({self.target!r}, 'w')",)


@other_protocol
def test_no_pickle_is_executed(checkpoint_file, records, tmp_path):
    """An object in a checkpoint, or in place of one, is refused before anything of it runs."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        bomb = pickle.dumps({"schema": 1, "model": Bomb(tmp_path / "written")}, protocol)
        assert not load(checkpoint_file, zipped(records | {"archive/data.pkl": bomb}))
        assert not load(checkpoint_file, bomb)
    assert not (tmp_path / "written").exists()


def nested(depth):
    """Return a list that is a few bytes in a file, and 2 to the power of `depth` in words."""
    inner = []
    for _ in range(depth):
        inner = [inner, inner]
    return inner


LOADED_IN_A_LIMIT = """
import re, resource, sys
import torch
from pathlib import Path
from lmsm_cli.errors import CheckpointError
from lmsm_cli.runs import checkpoint
from tests.conftest import plain_state
def held(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
before = held("VmHWM")
resource.setrlimit(resource.RLIMIT_DATA, (held("VmData") + 2**30, -1))
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
try:
    plain_state(Path(sys.argv[1]))
except CheckpointError:
    print((held("VmHWM") - before) >> 20)
"""


def peak_of(path):
    """Return the MiB that loading a bad checkpoint took, in a process limited to 1 GiB and 10 s."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED_IN_A_LIMIT, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the data in memory")


@on_linux
@pytest.mark.parametrize("bomb", ["archive/data.pkl", "archive/data/0"])
def test_a_zip_bomb_takes_no_memory(checkpoint_file, records, bomb):
    """A record of 200 MiB of zeros in a file of 200 kB is no reason to hold 200 MiB."""
    zeros = b"\x80\x02X" + (200 << 20).to_bytes(4, "little") + bytes(200 << 20) + b"."
    with zipfile.ZipFile(checkpoint_file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (records | {bomb: zeros}).items():
            archive.writestr(name, content)
    assert checkpoint_file.stat().st_size < 1 << 20
    assert peak_of(checkpoint_file) < 100


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(nested(60), id="bomb"),
        pytest.param(torch.tensor([1, 2]), id="tensor"),
        pytest.param((1,), id="tuple"),
        pytest.param(math.nan, id="nan"),
    ],
)
def test_a_schema_that_is_no_number_is_refused(checkpoint_file, state, schema):
    """Anything else as schema number is refused, a few bytes that are an exabyte in words too."""
    torch.save(state | {"schema": schema}, checkpoint_file)
    assert peak_of(checkpoint_file) < 200
