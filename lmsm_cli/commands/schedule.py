"""`lmsm schedule`: what a run's schedules will do, before any training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lmsm_cli.commands.console import print_json, print_line, stdout_console
from lmsm_cli.commands.options import (
    ConfigFile,
    Margin,
    Preset,
    check_picture,
    resolve_options,
    switch,
    value,
    with_config_flags,
)
from lmsm_cli.errors import LmsmError

if TYPE_CHECKING:
    from lmsm_cli.config import Config
    from lmsm_cli.losses.head import Head


@with_config_flags
def schedule(
    *,
    preset: Preset = None,
    config: ConfigFile = None,
    margin: Margin = None,
    plot: Annotated[
        Path | None, value("FILE", "Draw them into a png, pdf or svg file too.")
    ] = None,
    json: Annotated[bool, switch("--json", "Print every epoch as JSON.")] = False,
    **flags: Any,
) -> None:
    """Show how learning rate and margin would go, epoch by epoch, without training.

    Takes the flags of `lmsm train`; with a run's config.yaml as --config it shows that run's. \
Reads no data: classes and numbers of images are those the data sets are published with.
    """
    resolved = resolve_options(preset, config, margin, flags).config
    if resolved.post_hoc:
        raise LmsmError(
            f"post_hoc {resolved.post_hoc!r} trains nothing, so it has no schedule: leave it out"
        )
    if plot:
        check_picture("--plot", plot)
    from lmsm_cli.data.splits import planned_counts
    from lmsm_cli.training.lr_schedule import annealing_curve, planned_epochs
    from lmsm_cli.training.prepare import resolved_spec

    resolved, counts = _by_usual_counts(resolved), planned_counts(resolved)
    head = _head(resolved, counts)
    loss, epochs = resolved_spec(resolved.loss, head), planned_epochs(resolved, head)
    if plot:
        from lmsm_cli.reports.plots import plot_schedule

        plot_schedule(epochs, annealing_curve(resolved, head), loss, plot)
    if json:
        print_json({"loss": loss, "class_counts": counts, "epochs": epochs})
    else:
        _print(loss, counts, epochs, own_margins=bool(resolved.class_margins))


def _by_usual_counts(config: "Config") -> "Config":
    """Return a config whose loss has the options that a fold's training takes from the whole."""
    from lmsm_cli.data.splits import planned_usual_counts
    from lmsm_cli.training.prepare import resolved_spec

    if (usual := planned_usual_counts(config)) is None:
        return config
    loss = resolved_spec(config.loss, _head(config, usual))
    return config.model_copy(update={"loss": loss})


def _head(config: "Config", counts: list[int] | None) -> "Head":
    """Return the run's head on two features, for equal classes where the counts are unknown.

    No schedule depends on the number of features, nor on that of equal classes: of those, some have
    margins of their own, and one at least has the loss's.
    """
    import torch

    from lmsm_cli.data.class_names import CLASS_NAMES
    from lmsm_cli.data.sources import source_of
    from lmsm_cli.losses.registry import build_head

    others = (*(config.class_margins or ()), "another", "and another")
    names = CLASS_NAMES.get(source_of(config.dataset).name, others)
    return build_head(
        config.loss,
        2,
        len(names),
        torch.tensor(counts or [1] * len(names)),
        bias=config.head_bias,
        class_margins=config.class_margins,
        class_names=names,
    )


def _print(
    loss: str, counts: list[int] | None, epochs: list[dict[str, Any]], *, own_margins: bool
) -> None:
    from lmsm_cli.losses.registry import margin_by_rarity
    from lmsm_cli.reports.tables import OF_THE_LARGEST, OF_THE_RAREST, schedule_table

    if counts is None:
        known = "class counts are known only from the data: shown are the defaults of balanced data"
    else:
        sizes = " to ".join(map(str, sorted({min(counts), max(counts)})))
        known = f"{len(counts)} classes of {sizes} training images"
    console = stdout_console()
    for line in (f"loss: {loss}", known):
        print_line(line, console)
    console.print(schedule_table(epochs))
    if own_margins and epochs[0]["effective_margin"]:
        console.print(OF_THE_LARGEST)
    elif margin_by_rarity(loss):
        console.print(OF_THE_RAREST)
