"""The probe of the CPU's arithmetic: short, remembered, out of the way of everything random."""

import json
import time
from dataclasses import asdict, replace

import pytest
import torch

from lmsm_cli.config import Config
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runtime import arithmetic
from lmsm_cli.runtime import probe as probing
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.probe import Choice, measure, probe
from tests.test_loop import small_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the user's."""
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "arithmetic"


def ask(say=lambda text: None, name="small", **wanted):
    """Probe the small model on batches of 16."""
    return probe(small_model(), (8, 8, 1), 16, name=name, wanted=wanted, say=say)


def fake_times(monkeypatch, times):
    """Let a step take the milliseconds that `times` gives for what its key is part of."""

    def milliseconds(model, runtime, images, labels, hopeless=0):
        return next(time for part, time in times.items() if part in str(runtime))

    monkeypatch.setattr(probing, "_milliseconds", milliseconds)
    monkeypatch.setattr(probing, "has_fast_bf16", lambda device: True)


def test_it_is_measured_once_and_then_remembered(monkeypatch, cache):
    """A second run takes the first one's choice without measuring, and a new process would too."""
    first = ask()
    monkeypatch.setattr(probing, "measure", lambda *_: pytest.fail("measured again"))
    again = ask()
    assert (again.precision, again.layout, again.threads) == (
        first.precision,
        first.layout,
        first.threads,
    )
    assert not first.remembered
    assert again.remembered
    (kept,) = cache.glob("*.json")
    assert json.loads(kept.read_text())["machine"]["torch"] == str(torch.__version__)


@pytest.mark.parametrize("change", [{"name": "another"}, {"threads": 1}])
def test_another_model_or_wish_is_measured_anew(change):
    """What is remembered is for the same question only."""
    ask()
    assert not ask(**change).remembered


@pytest.mark.parametrize("damage", [b"", b"{", b'{"choice": {"precision": "fp8"}}', b"\xff\x00"])
def test_a_damaged_memory_is_measured_anew(cache, damage):
    """Whatever is in the file, the run starts, and the file is mended."""
    ask()
    (kept,) = cache.glob("*.json")
    kept.write_bytes(damage)
    assert not ask().remembered
    assert ask().remembered


def test_a_wrong_choice_in_the_memory_is_not_taken(cache):
    """A readable file that names no arithmetic of ours is measured anew."""
    ask()
    (kept,) = cache.glob("*.json")
    document = json.loads(kept.read_text())
    document["choice"]["precision"] = "fp8"
    kept.write_text(json.dumps(document))
    assert ask().precision in ("fp32", "bf16", "bf16-conv")


def test_without_a_cache_folder_it_says_so(tmp_path, monkeypatch):
    """A run goes on, and its user knows that the next may choose otherwise."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("LMSM_CACHE_DIR", str(blocked))
    said = []
    assert ask(say=said.append).threads >= 1
    assert len(said) == 1
    assert "cannot be kept" in said[0]
    assert "--precision" in said[0]


def test_the_clearly_fastest_wins_one_change_at_a_time(monkeypatch):
    """bf16 at half the time is taken, and a layout that saves next to nothing is not."""
    fake_times(monkeypatch, {"bf16, contiguous": 4.9, "bf16, channels-last": 5.0, "": 10.0})
    best = ask()
    assert (best.precision, best.layout) == ("bf16", "channels-last")
    assert len(best.milliseconds) >= 3


def test_without_a_clear_gain_it_stays_fp32(monkeypatch):
    """A saving of three per cent is noise."""
    fake_times(monkeypatch, {"bf16": 9.7, "": 10.0})
    assert ask().precision == "fp32"


def test_what_the_user_chose_stays(monkeypatch):
    """Wishes are in every arm."""
    fake_times(monkeypatch, {"bf16": 5.0, "": 10.0})
    assert ask(layout="contiguous", threads=1).layout == "contiguous"


def test_it_takes_two_seconds_at_most_and_leaves_no_trace():
    """A net that is heavy for this CPU is probed within the budget; model and generator stay as they were."""
    torch.manual_seed(3)
    model = build_classifier(
        ModelSpec("resnet18", "bn", "softmax"), classes="abc", mean=(0.5,) * 3, std=(0.3,) * 3
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    started = time.perf_counter()
    measure(model, (32, 32, 3), 128, {})
    # 2 s on an idle machine; this one runs other tests at the same time
    assert time.perf_counter() - started < 6
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_given_precision_switches_it_off(monkeypatch):
    """--precision fp32 is fp32, unmeasured, in the usual layout."""
    monkeypatch.setattr(arithmetic, "probe", lambda *_, **__: pytest.fail("probed"))
    settled = arithmetic.resolve_precision(
        Config(precision="fp32", device="cpu"), small_model(), (8, 8, 1), print
    )
    assert (settled.precision, settled.layout) == ("fp32", "channels-last")


def test_a_settled_config_is_not_measured_again(monkeypatch):
    """The config.yaml of a run repeats it, whatever would be faster by now."""
    monkeypatch.setattr(arithmetic, "probe", lambda *_, **__: Choice("bf16", "contiguous", 1, {}))
    settled = arithmetic.resolve_precision(
        Config(device="cpu"), small_model(), (8, 8, 1), lambda text: None
    )
    assert (settled.precision, settled.layout, settled.threads) == ("bf16", "contiguous", 1)
    monkeypatch.setattr(arithmetic, "probe", lambda *_, **__: pytest.fail("probed"))
    assert arithmetic.resolve_precision(settled, small_model(), (8, 8, 1), print) == settled


def test_a_runtime_sets_what_it_says(monkeypatch):
    """Threads and the rounding of convolutions hold for the process after apply()."""
    cpu = torch.device("cpu")
    try:
        Runtime(cpu, "bf16-conv", threads=1).apply()
        assert torch.backends.mkldnn.conv.fp32_precision == "bf16"
        Runtime(cpu, "fp32", threads=1).apply()
        assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        assert torch.get_num_threads() == 1
    finally:
        Runtime(cpu).apply()


def test_more_threads_than_torch_has_are_read_back(tmp_path):
    """`--threads 4` on two cores is measured once, and then known."""
    choice = Choice("fp32", "contiguous", 2 * probing.ALL_THREADS, {"fp32": 1.0})
    probing._write(tmp_path / "probe.json", {"machine": {}, "choice": asdict(choice)})
    assert probing._read(tmp_path / "probe.json") == replace(choice, remembered=True)
