"""What `auto` is: a rule of the machine and the net, the same in every run of a comparison."""

import pytest
import torch
from torch import nn

from lmsm_cli.config import Config
from lmsm_cli.errors import LmsmError
from lmsm_cli.runtime import device as devices
from lmsm_cli.runtime.device import (
    ALL_THREADS,
    Runtime,
    choose_device,
    choose_runtime,
    resolve_precision,
)
from tests.test_loop import small_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def net(*widths):
    """Return a net of convolutions of these numbers of output channels, and a wide linear layer."""
    return nn.Sequential(*[nn.Conv2d(3, width, 3) for width in widths], nn.Linear(4, 4096))


@pytest.fixture
def machine(monkeypatch):
    """A function that lets devices multiply bf16, or not."""

    def pretend(*, multiplies_bf16):
        monkeypatch.setattr(devices, "has_fast_bf16", lambda device: multiplies_bf16)

    return pretend


@pytest.mark.parametrize(
    ("device", "multiplies_bf16", "widths", "precision"),
    [
        (CPU, True, (16, 128, 64), "bf16"),
        (CPU, True, (512,), "bf16"),
        (CPU, True, (127, 64), "fp32"),
        (CPU, True, (), "fp32"),
        (CPU, False, (512,), "fp32"),
        (CUDA, True, (16,), "bf16"),
        (CUDA, False, (512,), "fp32"),
    ],
)
def test_auto_is_bf16_where_it_pays(machine, device, multiplies_bf16, widths, precision):
    """The CPU wants a convolution of 128 channels, a GPU nothing, and both the hardware for it."""
    machine(multiplies_bf16=multiplies_bf16)
    assert resolve_precision(device, net(*widths)) == precision


def test_without_a_net_auto_is_fp32_on_the_cpu(machine):
    """There is no convolution that could gain."""
    machine(multiplies_bf16=True)
    assert resolve_precision(CPU, None) == "fp32"


@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True)])
def test_bf16_is_fast_with_avx512_bf16_or_amx(monkeypatch, flags):
    """Either of the two that oneDNN has kernels for will do."""
    for name, has_it in zip(("avx512_bf16", "amx_tile"), flags, strict=True):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda has_it=has_it: has_it)
    assert devices.has_fast_bf16(CPU) == any(flags)


def test_auto_takes_all_threads_and_channels_last(machine):
    """Nothing is measured, and the processes of a host share the threads."""
    machine(multiplies_bf16=True)
    chosen = choose_runtime("cpu", "auto", net=net(256))
    assert chosen == Runtime(CPU, "bf16", "channels-last", ALL_THREADS)
    assert choose_runtime("cpu", "auto", processes=ALL_THREADS + 1).threads == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-conv"])
def test_what_the_config_says_stays(machine, precision):
    """A config that names its arithmetic, as a resumed run's, gets it whatever the rule says."""
    machine(multiplies_bf16=precision == "fp32")
    chosen = choose_runtime("cpu", precision, "contiguous", 3, net=small_model())
    wanted = {"precision": precision, "layout": "contiguous", "threads": 3}
    assert chosen.to_config() == wanted
    assert choose_runtime("cpu", *wanted.values(), net=net(512)) == chosen


def test_rocm_is_refused_by_name_and_auto_is_the_cpu(monkeypatch):
    """There torch calls an AMD GPU a CUDA device; nobody has tried lmsm on one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert choose_device("auto") == CPU
    with pytest.raises(LmsmError, match=r"built for ROCm 6\.4, which lmsm does not support"):
        choose_device("cuda")


def test_the_gpu_of_a_mac_is_refused_by_name():
    """Both where a config is read, and where a command takes a device alone."""
    with pytest.raises(LmsmError, match="'mps', Apple's GPU, is not supported"):
        choose_device("mps")
    with pytest.raises(ValueError, match="'mps', Apple's GPU, is not supported; give auto or cpu"):
        Config(device="mps")
