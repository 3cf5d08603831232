"""The arithmetic of a run: what its config says, and where that says nothing, what is fastest."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from lmsm_cli.config import Config
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.device import Runtime, choose_runtime
from lmsm_cli.runtime.probe import probe


def runtime_of(config: Config, *, processes: int = 1) -> Runtime:
    """Return the arithmetic that a settled config names, on the device that it asks for."""
    return choose_runtime(
        config.device, config.precision, config.layout, config.threads, processes=processes
    )


def resolve_precision(
    config: Config, model: Classifier, image_shape: tuple[int, ...], say: Callable[[str], None]
) -> Config:
    """Return the config with the arithmetic that is in force, on the CPU the fastest there.

    `image_shape` is (H, W, C). What the config says already stays.
    """
    runtime = runtime_of(config)
    if runtime.device.type == "cpu":
        given = {"precision": config.precision, "layout": config.layout, "threads": config.threads}
        wanted = {key: value for key, value in given.items() if value not in ("auto", 0)}
        if "precision" not in wanted:
            name = f"{config.model}, neck {config.neck}"
            best = probe(model, image_shape, config.batch_size, name=name, wanted=wanted, say=say)
            runtime = replace(
                runtime, precision=best.precision, layout=best.layout, threads=best.threads
            )
            if not best.remembered:
                say(f"measured, for all runs of this model here: {_shown(best.milliseconds)}")
    return config.model_copy(
        update={
            "precision": runtime.precision,
            "layout": runtime.layout,
            "threads": runtime.threads if runtime.device.type == "cpu" else 0,
        }
    )


def _shown(milliseconds: Mapping[str, float]) -> str:
    ranked = sorted(milliseconds.items(), key=lambda arm: arm[1])
    return "; ".join(f"{arm.removeprefix('CPU, ')} {time:.1f} ms" for arm, time in ranked)
