"""`lmsm bench`: what this machine trains at."""

from collections.abc import Sequence
from itertools import product
from typing import Annotated

from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.commands.options import Device, Quiet, switch, value
from lmsm_cli.config.nets import NETS, OWN_NETS
from lmsm_cli.errors import LmsmError, did_you_mean

_USUAL = "resnet18,resnet18-cifar,resnet32,vgg16,vgg16_bn,paper-cifar10"


def bench(
    models: Annotated[
        str,
        value(
            "M,...",
            "Models to measure, or all of lmsm's own.",
            show_default=_USUAL.replace(",", ", "),
        ),
    ] = _USUAL,
    precision: Annotated[str, value("P,...", "fp32, bf16, bf16-conv (CPU).")] = "fp32,bf16",
    layout: Annotated[str, value("L,...", "channels-last, contiguous.")] = "channels-last",
    threads: Annotated[str, value("N,...", "CPU threads; 0 takes all.")] = "0",
    batch_size: Annotated[int, value("INTEGER", "Images in a training step.", min=2)] = 128,
    seconds: Annotated[
        float,
        value("NUMBER", "Timed seconds of each row.", min=0.01),
    ] = 2.0,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Annotated[bool, switch("--json", "Print the numbers as JSON.")] = False,
) -> None:
    """Measure how fast this machine trains each model, and what losses and augmentations cost.

    Uses random images of 32x32 pixels and no data; takes about a minute on two cores. Lists of \
precisions, layouts and threads show which is fastest. The share of the peak is against a plain \
matrix product and counts multiplications by padding, which fast convolutions skip: it can pass \
100%.
    """
    chosen = list(OWN_NETS) if models == "all" else _checked(models, NETS, "model")
    choices = product(
        _checked(precision, ["fp32", "bf16", "bf16-conv"], "precision"),
        _checked(layout, ["channels-last", "contiguous"], "layout"),
        [_number(text) for text in threads.split(",")],
    )
    # These import torch, which a mistyped name must not wait for.
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports import tables
    from lmsm_cli.runs.environment import describe
    from lmsm_cli.runtime.device import choose_runtime
    from lmsm_cli.training import benchmark as measure

    runtimes = [choose_runtime(device, *choice) for choice in choices]
    with new_display(quiet) as display:
        document = measure.survey(
            chosen, runtimes, batch_size, seconds, display.progress, display.info
        )
    document = {"environment": describe(str(runtimes[0])), "batch_size": batch_size, **document}
    if json:
        print_json(document)
        return
    console = stdout_console()
    console.print(tables.models_bench_table(document))
    console.print(tables.losses_bench_table(document))
    console.print(tables.augmentations_bench_table(document))


def _checked(text: str, known: Sequence[str], what: str) -> list[str]:
    """Return the names of a comma-separated list. Raises LmsmError for the first unknown one."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise LmsmError(f"no {what} {name!r}{did_you_mean(name, known)}")
    return names


def _number(text: str) -> int:
    """Return a number of threads. Raises LmsmError for what is none."""
    if not text.strip().isdecimal():
        raise LmsmError(
            f"--threads: {text!r} is no number of threads; give 0 for all, or 1, 2, ..."
        )
    return int(text)
