"""`lmsm bench`: numbers that another road confirms, and input refused before anything runs."""

import pytest
import torch
from torch import nn

from lmsm_cli.commands.app import main
from lmsm_cli.data.augment import AUGMENTATIONS
from lmsm_cli.losses.registry import HEADS
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.training import benchmark as measure
from tests.conftest import printed_json

CPU = Runtime(torch.device("cpu"), threads=1)


@pytest.mark.parametrize(
    ("model", "forward_mmacs", "stem_mmacs"),
    [("resnet18", 140.2, 1.77), ("resnet18-cifar", 555.4, 1.77), ("resnet32", 68.9, 0.44)],
)
def test_flops_are_the_literatures(model, forward_mmacs, stem_mmacs):
    """6 x MACs - 2 x MACs of the first convolution, which has no gradient to images, within 1%."""
    wanted = (6 * forward_mmacs - 2 * stem_mmacs) / 1000
    assert measure.training_gflop(model) == pytest.approx(wanted, rel=0.01)


def test_throughput_is_images_over_the_time_of_a_step(monkeypatch):
    """With a clock that gives every step 0.25 s, 8 images a step are 32 images/s."""
    monkeypatch.setattr(measure, "_timed", lambda function, device: function() or 0.25)
    assert measure.throughput("paper-2d", CPU, 8, 1.0, print) == 32


def test_an_augmentation_costs_what_it_adds_to_a_batch(monkeypatch):
    """With a clock by kernels the plain batch is taken off, and shares are of the step's time."""
    seconds = iter(range(1, 10_000))
    monkeypatch.setattr(measure, "_timed", lambda function, device: function() or next(seconds))
    added, step = measure.augmentation_milliseconds(CPU, 2, rounds=3)
    # 11 things in turn, each a second longer than the one before; of batches four are timed at once
    names = ["none", *AUGMENTATIONS[1:], "mixup", "cutmix"]
    first = 2 * (len(names) + 1) + 1
    assert step == 1000 * first
    assert added == {name: pytest.approx(1000 * i / 4) for i, name in enumerate(names) if i}


def test_a_model_that_does_not_fit_is_a_row_of_its_own(monkeypatch):
    """Out of memory is told as None, any other error is not swallowed."""

    def fail(error):
        def call(*_, **__):
            raise error

        return call

    monkeypatch.setattr(nn.Conv2d, "forward", fail(RuntimeError("CUDA out of memory")))
    assert measure.throughput("paper-2d", CPU, 8, 0.1, print) is None
    monkeypatch.setattr(nn.Conv2d, "forward", fail(RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        measure.throughput("paper-2d", CPU, 8, 0.1, print)


@pytest.mark.slow
def test_the_command_prints_models_losses_and_json(capsys):
    """Every model and layout has a row whose parts fit together, and every loss has one."""
    arms = (
        "--models paper-2d,resnet32 --precision fp32 --layout channels-last,contiguous --threads 1"
    )
    flags = [*arms.split(), "--batch-size", "4", "--seconds", "0.01"]
    document = printed_json(capsys, "bench", *flags)
    assert [(row["model"], row["layout"]) for row in document["models"]] == [
        (model, layout)
        for model in ("paper-2d", "resnet32")
        for layout in ("channels-last", "contiguous")
    ]
    assert {row["threads"] for row in document["models"]} == {1}
    for row in document["models"]:
        rate = row["images_per_second"]
        assert row["seconds_per_epoch"] * rate == pytest.approx(45_000)
        assert row["share_of_peak"] * document["peak_gflops"]["fp32"] == pytest.approx(
            rate * row["gflop_per_image"]
        )
    assert [row["loss"] for row in document["losses"]] == list(HEADS)
    augmentations = {row["augment"]: row for row in document["augmentations"]}
    assert list(augmentations) == [*AUGMENTATIONS[1:], "mixup", "cutmix"]
    assert (
        len({round(r["milliseconds"] / r["share_of_step"], 6) for r in augmentations.values()}) == 1
    )
    assert str(torch.__version__).startswith(document["environment"]["torch"])
    assert main(["bench", *flags]) == 0
    out = capsys.readouterr().out
    for piece in ("paper-2d", "images/s", "% of peak", "over softmax", "lsoftmax", "trivial"):
        assert piece in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "resnet8"], "no model 'resnet8' (did you mean 'resnet18'?)"),
        (["--precision", "fp16"], "no precision 'fp16' (did you mean 'bf16'?)"),
        (["--layout", "contigous"], "no layout 'contigous' (did you mean 'contiguous'?)"),
        (["--threads", "1,few"], "--threads: 'few' is no number of threads"),
        (["--device", "tpu"], "device is 'tpu': give auto, cpu, cuda or cuda:N"),
    ],
)
def test_unknown_names_are_refused(capsys, flags, message):
    """Exit code 2 with the nearest right name, before anything is measured."""
    assert main(["bench", *flags]) == 2
    assert message in capsys.readouterr().err
