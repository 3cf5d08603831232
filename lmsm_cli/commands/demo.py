"""`lmsm demo`: the whole tool on embedded data in a minute or two: three losses, rare classes."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lmsm_cli.commands.compare import print_comparison, print_conclusion
from lmsm_cli.commands.console import print_json, print_line
from lmsm_cli.commands.options import Quiet, Verbose, switch, value
from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer, resolve

if TYPE_CHECKING:
    from lmsm_cli.runtime.display import Display

# Those that docs/which-loss.md compares; on a long tail lsoftmax takes margin=tail.
_LOSSES = ("softmax", "lsoftmax", "balanced-softmax")
# A fifth of the preset's, under which BatchNorm's averages lag so far behind the weights in the
# first epoch, of 14 steps, that validation losses begin near 100 (benchmarks/LOG.md).
_LR = 0.01
_MARGINS = (1, 2, 3, 4)
# The paper's figure 2: two features, all images, the full margin at the end. Under free norms
# margin 4 lets classes die, and with twice this lr so do two of three seeds (benchmarks/LOG.md).
_PICTURE = {
    "imbalance": "none",
    "factor": 1.0,
    "model": "paper-2d",
    "neck": "linear",
    "lr": 0.005,
    "epochs": 8,
    "seed": 0,
}
_PICTURE_LOSS = "lsoftmax:margin={},lambda_min=0,weight_norm=shared"


def demo(
    out: Annotated[Path, value("PATH", "Folder to make the demo's folder in.")] = Path("runs"),
    seeds: Annotated[int, value("INTEGER", "Runs of each loss, with seeds 0, 1, ...", min=1)] = 3,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Annotated[bool, switch("--json", "Print the comparison as JSON.")] = False,
) -> None:
    """Try the tool: compare softmax, L-Softmax and balanced softmax, without a download.

    Real digits, made long-tailed: some classes keep few images. Draws the features of small nets \
under growing margins too. Takes a minute or two on two cores and needs no GPU.
    """
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.comparison.grouping import compare_runs
    from lmsm_cli.runs.folder import RunFolder
    from lmsm_cli.runs.record import find_runs, read_run

    shown = new_display(quiet, verbose)
    folder = RunFolder.create(out, f"demo-{datetime.now():%Y%m%d-%H%M%S}").path
    with shown as display:
        _compare_losses(folder, seeds, display)
        picture = _draw_features(folder, len(_LOSSES) * seeds, display)
    comparison = compare_runs([read_run(path) for path in find_runs([folder / "comparison"])])
    if json:
        print_json(comparison.to_json() | {"picture": str(picture)})
        return
    print_comparison(comparison)
    print_line(f"2-D features under margins 1 to 4: {picture}")
    print_line(f"all runs: lmsm compare {shlex.quote(str(folder / 'comparison'))}")
    print_conclusion(comparison)


def _compare_losses(folder: Path, seeds: int, display: "Display") -> None:
    from lmsm_cli.training.run import start_run

    chosen = [(loss, seed) for loss in _LOSSES for seed in range(seeds)]
    for done, (loss, seed) in enumerate(chosen):
        display.overall(done, len(chosen) + len(_MARGINS))
        config = _config(folder / "comparison", loss=loss, seed=seed, lr=_LR)
        display.info(f"{loss}, seed {seed}")
        start_run(config, display, with_plots=False)


def _draw_features(folder: Path, runs_before: int, display: "Display") -> Path:
    """Train one 2-D net for each margin and draw what it makes of the test images."""
    from lmsm_cli.inference.evaluate import features_of_test_images
    from lmsm_cli.reports.plots import plot_features
    from lmsm_cli.training.run import start_run

    panels = []
    for done, margin in enumerate(_MARGINS, runs_before):
        display.overall(done, runs_before + len(_MARGINS))
        config = _config(folder / "picture", loss=_PICTURE_LOSS.format(margin), **_PICTURE)
        display.info(f"2-D features, margin {margin}")
        run = start_run(config, display, with_plots=False)
        assert run is not None
        features, labels, classes = features_of_test_images(run.path, display)
        panels.append((f"m = {margin}", features, labels))
    plot_features(panels, classes, folder / "features.png")
    return folder / "features.png"


def _config(out: Path, **values: Any) -> Config:
    layer = Layer.of_flags(values | {"out": out, "device": "auto"})
    return resolve([Layer.of_preset("digits"), layer]).config
