"""What a checkpoint says about itself: nonsense is refused before anything is built of it."""

import copy
import io
import math
import pickletools
import time
import zipfile
from contextlib import suppress

import pytest
import torch

from lmsm_cli.config import MOST_EPOCHS, Config
from lmsm_cli.config import config as configs
from lmsm_cli.errors import CheckpointError
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runs import checkpoint, contents

NAN, INF = math.nan, math.inf
CONFIG = configs.dump(
    Config(
        dataset="digits",
        model="paper-2d",
        loss="softmax",
        epochs=3,
        batch_size=4,
        data_dir="a\udc80b",
    )
)
ROW = {
    "train_loss": NAN,
    "train_accuracy": 0.5,
    "val_loss": None,
    "lr": 0.1,
    "images_per_second": 9.5,
    "seconds": 2,
    "lambda": None,
    "collapse": ["dead features"],
}


def nested(depth):
    """Return a list that is a few bytes in a file, and 2 to the power of `depth` in words."""
    inner = []
    for _ in range(depth):
        inner = [inner, inner]
    return inner


@pytest.fixture(scope="module")
def whole():
    """All that a run saves, in the middle of its third epoch."""
    torch.manual_seed(0)
    model = build_classifier(
        ModelSpec(CONFIG["model"], CONFIG["neck"], CONFIG["loss"]),
        classes=("cat", "dog"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    momenta = {
        n: {"step": torch.tensor(2.0), "exp_avg": torch.zeros_like(p)}
        for n, p in enumerate(model.parameters())
    }
    watch = {
        "sums": torch.ones(6, dtype=torch.float64),
        "predicted": torch.tensor([True, False]),
        "step": 1,
        "images": 4,
        "watched_images": 0,
        "watched_steps": 0,
    }
    generators = {"cpu": torch.get_rng_state()[None]}
    return checkpoint.state_of(
        model,
        CONFIG,
        train_counts=[5, 4],
        image_shape=[8, 8, 3],
        epoch=2,
        optimizer=momenta,
        position={"epoch": 2, "step": 1, "seconds": 0.5, "watch": watch, "generators": generators},
        journal={
            "rows": [{"epoch": 1} | ROW, {"epoch": 2} | ROW],
            "best": {"epoch": 1, "val_balanced_accuracy": 0.5},
            "warned": [],
            "lengthened_from": [1],
        },
        fingerprint="0" * 64,
        versions={"torch": "torch 2", "runtime": "CPU"},
        images={"training": "0" * 32, "validation": None, "test": "1" * 32},
        metrics="2" * 64,
    )


@pytest.fixture(scope="module")
def path(whole, tmp_path_factory):
    """A file with it."""
    file = tmp_path_factory.mktemp("contents") / "checkpoint.pt"
    checkpoint.save(whole, file)
    return file


def changed(state, place, value):
    """Return the state with another value at a place, as `journal.rows.0.epoch`."""
    keys = [int(key) if key.isdecimal() else key for key in place.split("/")]
    state = state | {keys[0]: copy.deepcopy(state[keys[0]])}
    inner = state
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return state


NONSENSE = {
    "image_shape": [
        [10**6, 10**6, 3],
        [30000, 30000, 3],
        [0, 0, 3],
        [8, 8, 4],
        [8, 9, 3],
        [8, 8],
        [8, 8, 1],
        [-8, -8, 3],
        [8.0, 8, 3],
        [2048, 2048, 3],
        "abc",
        [],
        None,
        nested(60),
    ],
    "classes": [
        [str(i) for i in range(100_000)],
        ["cat"],
        ["cat", "cat"],
        ["cat", 3],
        ["cat", "d" * 10**6],
        "ab",
        {},
        [],
        None,
        nested(60),
        ["cat", "dog", "eel"],
    ],
    "mean": [
        [NAN] * 3,
        [INF] * 3,
        [0.5],
        [0.1] * 3,
        ["a"] * 3,
        [10**400] * 3,
        [],
        "abc",
        None,
        nested(60),
    ],
    "std": [[0.0] * 3, [-0.25] * 3, [NAN] * 3, [0.3] * 3, [0.25], [True] * 3, None],
    "train_counts": [
        [-5, 3],
        [5],
        [5, 4, 3],
        [5, NAN],
        [5, 4.5],
        ["5", "4"],
        [5, 10**30],
        [],
        "54",
        None,
        nested(60),
    ],
    "epoch": [NAN, INF, -1, 4, 10**30, 2.5, "2", True, None, [2], nested(60)],
    "config": [
        {},
        [],
        None,
        "x",
        CONFIG | {"model": nested(60)},
        CONFIG | {"imbalance": nested(60)},
        CONFIG | {"epochs": 10**30},
        CONFIG | {"lr": NAN},
        CONFIG | {"device": "\n"},
        CONFIG | {"unknown": 1},
    ],
    "config/epochs": [1, 0, -3, "many", 1e300],
    "model": [{}, [], None, {"head.weight": 3}],
    "model/head.weight": [
        torch.zeros(3, 2),
        torch.zeros(2),
        torch.zeros(()),
        torch.full((2, 2), NAN),
        torch.full((2, 2), INF),
        torch.zeros(1, 2).expand(2, 2),
        3,
        None,
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, 2, device="meta"),
    ],
    "model/mean": [torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), NAN), torch.zeros(3), None],
    "model/std": [torch.zeros(1, 3, 1, 1)],
    "model/backbone.0.weight": [torch.full((32, 3, 5, 5), NAN)],
    "optimizer": [[], {"a": {}}, {0: 3}, {0: {"exp_avg": "x"}}, nested(60)],
    "optimizer/0/exp_avg": [torch.full((32, 3, 5, 5), NAN), torch.zeros(1).expand(10**9)],
    "position": [[], {"epoch": 1}, {"epoch": "x"}, nested(60)],
    "position/epoch": [1, -1, NAN, 10**30],
    "position/step": [-1, 2**40, 3, 0.5, "x"],
    "position/seconds": [NAN, -1.0, INF, "x"],
    "position/watch": [{}, [], "x", nested(60)],
    "position/watch/sums": [torch.zeros(5), 3, None],
    "position/watch/predicted": [torch.zeros(3, dtype=torch.bool), None],
    "position/watch/step": [0, 2, -1, None],
    "position/watch/images": [0, NAN, None],
    "position/generators": [
        [],
        {"cpu": 3},
        {"cpu": torch.zeros(5056, dtype=torch.uint8)},
        {"cpu": torch.zeros(1, 5056)},
        {"cpu": torch.zeros(1, 7, dtype=torch.uint8)},
    ],
    "journal": [[], "x", nested(60)],
    "journal/rows": [[], [{}], "x", [{"epoch": 1} | ROW] * 2, nested(60), {}],
    "journal/rows/0/epoch": [2, 0, NAN, "1", None],
    "journal/rows/0/seconds": [NAN, -1.0, "x", None],
    "journal/rows/0/images_per_second": [NAN, "x", None],
    "journal/rows/0/train_loss": [{}, nested(60), torch.zeros(3), 2**70],
    "journal/rows/0/lambda": [10**300, -(2**63) - 1],
    "journal/best": [
        {},
        3,
        {"epoch": 3, "val_balanced_accuracy": 0.5},
        {"epoch": 1, "val_balanced_accuracy": NAN},
        {"epoch": 1, "val_balanced_accuracy": 7.0},
    ],
    "journal/warned": [3, [3], None, nested(60)],
    "journal/lengthened_from": [3, [-1], ["x"], None],
    "fingerprint": [3, "", "0" * 63, nested(60)],
    "versions": [3, {"torch": 3}, {"torch": nested(60)}, {"torch": "x" * 10**6}],
    "metrics": [3, "", "0" * 63, [], nested(60)],
    "images": [3, {}, {"training": "x", "validation": None, "test": "1" * 32}, nested(60)],
}


@pytest.mark.parametrize("place", NONSENSE)
def test_nonsense_is_refused_at_once(whole, path, place):
    """Each value at each place is a CheckpointError that names the key, in less than a second."""
    for value in NONSENSE[place]:
        state, started = changed(whole, place, value), time.process_time()
        with pytest.raises(CheckpointError) as error:
            contents.check(state, path.stat().st_size)
        assert time.process_time() - started < 1
        text = str(error.value)
        assert len(text) < 1000
        assert "fit" in text or "finite" in text or "claim" in text


@pytest.mark.parametrize(
    ("key", "value"), [("std", 0.0), ("std", -0.5), ("mean", NAN), ("std", INF)]
)
def test_a_normalisation_without_sense_is_refused_where_it_agrees(whole, key, value):
    """It stands in the file twice: both may be made alike, and still divide by nothing."""
    tensors = whole["model"] | {key: torch.full((1, 3, 1, 1), value)}
    with pytest.raises(CheckpointError, match=key):
        contents.check(whole | {key: [value] * 3, "model": tensors}, 10**7)


@pytest.mark.parametrize("place", ["schema", *NONSENSE])
def test_a_missing_key_is_refused_or_an_older_lmsms(whole, place):
    """Whatever is left out, the answer is a state or a CheckpointError."""
    keys = place.split("/")
    state = whole | {keys[0]: copy.deepcopy(whole[keys[0]])}
    inner = state
    for key in keys[:-1]:
        inner = inner[int(key) if key.isdecimal() else key]
    inner.pop(int(keys[-1]) if keys[-1].isdecimal() else keys[-1])
    try:
        contents.check(state, 10**7)
    except CheckpointError:
        return
    assert (
        place
        in (
            "schema",
            "optimizer",
            "position",
            "journal",
            "fingerprint",
            "versions",
            "images",
            "metrics",
        )
        or len(keys) > 1
    )


VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    -0.5,
    NAN,
    INF,
    "",
    "x" * 10**5,
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
    (),
    b"x",
    {3},
    nested(60),
    torch.zeros(0),
    torch.full((2, 2), NAN),
    1j,
]


def places_of(value, before=()):
    """Yield the way to every value in a state; of tensors that are many, to some."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for number, (key, inner) in enumerate(items):
        if before[:1] not in (("model",), ("optimizer",)) or number < 3:
            yield (*before, key)
            yield from places_of(inner, (*before, key))


def test_any_value_at_any_place_is_refused_or_does_no_harm(whole):
    """No value makes the check fail in another way than by CheckpointError, or take its time."""
    places = list(places_of(whole))
    assert len(places) > 100
    for keys in places:
        for value in VALUES:
            state = whole | {keys[0]: copy.copy(whole[keys[0]])}
            inner = state
            for key in keys[:-1]:
                inner[key] = copy.copy(inner[key])
                inner = inner[key]
            inner[keys[-1]] = value
            started = time.process_time()
            with suppress(CheckpointError):
                contents.check(state, 10**7)
            assert time.process_time() - started < 1, (keys, value)


def test_what_a_run_saves_is_taken(whole, path):
    """A state with everything in it, odd paths and losses that are not finite too, is read back."""
    state = checkpoint.load(path)
    assert str(state.config.data_dir) == "a\udc80b"
    assert checkpoint.restore(state, path).classes == ("cat", "dog")


def test_what_older_versions_saved_is_taken(whole, path):
    """Schema 1 had no optimiser, position or journal; keys that are not known are passed over."""
    older = {
        key: whole[key]
        for key in (
            "config",
            "classes",
            "mean",
            "std",
            "model",
            "train_counts",
            "image_shape",
            "epoch",
        )
    }
    torch.save(older | {"schema": 1, "more": {"of": [1, 2]}}, path)
    try:
        assert checkpoint.restore(checkpoint.load(path), path).classes == ("cat", "dog")
    finally:
        checkpoint.save(whole, path)


def test_a_head_of_another_width_is_refused_before_it_is_built(whole, path, tmp_path):
    """A narrow weight for many classes would make room for a wide one."""
    many = [str(n) for n in range(1000)]
    state = whole | {"classes": many, "train_counts": [9] * 1000, "position": None, "journal": None}
    state["model"] = whole["model"] | {"head.weight": torch.zeros(1000, 1)}
    checkpoint.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"head\.weight has 1 columns, not 2"):
        checkpoint.load_checkpoint(tmp_path / "x.pt")


def test_images_too_small_for_the_net_are_refused(whole, tmp_path):
    """A net that pools below one pixel could only fail on its first image."""
    checkpoint.save(whole | {"image_shape": [4, 4, 3]}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="at least 8 pixels"):
        checkpoint.load_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "state",
    [
        {"a": bytearray(10)},
        {"a": {1, 2}},
        {"a": 1j},
        {"a": torch.Size([3])},
        {"a": torch.float32},
        {"a": torch.device("cpu")},
        {"a": torch.zeros(3, device="meta")},
        {"a": torch.zeros(3).to_sparse()},
        {"a": torch.nn.Parameter(torch.zeros(3))},
        {"a": torch.zeros(3, dtype=torch.complex64)},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_lmsm_never_saves_is_not_unpickled(state, tmp_path):
    """torch would take these, and a bytearray of any size among them; they are refused unread."""
    torch.save(state | {"schema": 1}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no plain data"):
        checkpoint.load(tmp_path / "x.pt")


def rewritten(path, target, change):
    """Write a copy of a checkpoint's archive without its digest, its records changed."""
    with zipfile.ZipFile(path) as read, zipfile.ZipFile(target, "w") as archive:
        for name, content in change({name: read.read(name) for name in read.namelist()}):
            archive.writestr(name, content)


def test_a_structure_beyond_any_runs_is_refused_unread(path, tmp_path, monkeypatch):
    """Millions of classes or empty lists, in few bytes each, are refused before they are made."""
    monkeypatch.setattr(contents, "_MOST_OPERATIONS", 20_000)
    for pickled in (b"\x80\x02" + b"N0" * 9_000_000 + b"N.", b"\x80\x02](" + b"]" * 50_000 + b"e."):
        rewritten(
            path,
            tmp_path / "x.pt",
            lambda records, p=pickled: (records | {"archive/data.pkl": p}).items(),
        )
        with pytest.raises(CheckpointError, match="more values than a run has"):
            checkpoint.load(tmp_path / "x.pt")


def test_there_is_one_pickle(path, tmp_path):
    """Two, of which lmsm looks at one and torch takes the other, are refused."""
    for second in ("archive/DATA.pkl", "other/data.pkl"):
        rewritten(
            path,
            tmp_path / "x.pt",
            lambda records, s=second: [*records.items(), (s, b"\x80\x02N.")],
        )
        with pytest.raises(CheckpointError, match="no lmsm checkpoint"):
            checkpoint.load(tmp_path / "x.pt")


def test_the_longest_run_stays_within_what_is_read():
    """The rows of as many epochs as a config may have, all of different numbers, are read."""
    keys = [f"number {n}" for n in range(20)]  # a run's rows have fewer
    rows = [dict(zip(keys, torch.rand(20).tolist(), strict=True)) for _ in range(1000)]
    file = io.BytesIO()
    torch.save({"rows": rows}, file)
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
    longer = MOST_EPOCHS / len(rows)
    assert len(pickled) * longer < contents.LARGEST_STRUCTURE
    assert sum(1 for _ in pickletools.genops(pickled)) * longer < contents._MOST_OPERATIONS
