"""A trained classifier, read back with all that is needed to ask it something."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lmsm_cli.config import Config
from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.errors import CheckpointError
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.images import recorded_images
from lmsm_cli.runtime.device import Runtime, choose_device, choose_runtime


@dataclass(frozen=True)
class Trained:
    """A checkpoint file, read back; the model is in eval mode."""

    file: Path
    model: Classifier
    config: Config
    train_counts: list[int]
    image_shape: list[int]  # (H, W, C)
    epoch: int
    image_digests: dict[str, str | None] | None
    """Of each part of the run's images; None where an older lmsm recorded none."""
    images: ImagesRecord | None
    """images.npz of its run folder; None where it is not beside the checkpoint."""

    def runtime(self, device: str) -> Runtime:
        """Return the arithmetic of the run on a device, as near as that device has it, and apply it.

        The model is moved there. Raises LmsmError for a device that is not to be had.
        """
        on_cuda = choose_device(device).type == "cuda"
        precision = (
            "bf16" if on_cuda and self.config.precision == "bf16-conv" else self.config.precision
        )
        runtime = choose_runtime(
            device, precision, self.config.layout, self.config.threads, net=self.model
        )
        runtime.apply()
        runtime.place(self.model)
        return runtime


def read_trained(path: Path, data_dir: Path | None = None) -> Trained:
    """Return the classifier of a checkpoint file or run folder; `data_dir` takes the place of its own.

    Raises CheckpointError.
    """
    file = checkpoint.find(path)
    state = checkpoint.load(file)
    model = checkpoint.restore(state, file)
    override = {"data_dir": data_dir} if data_dir else {}
    try:
        config = Config.model_validate(state["config"] | override, context={"is_saved": True})
    except ValidationError as error:
        raise CheckpointError(
            f"{file} holds a config that this lmsm does not know: {error.errors()[0]['msg']}"
        ) from None
    return Trained(
        file,
        model,
        config,
        state["train_counts"],
        state["image_shape"],
        state["epoch"],
        state.get("images"),
        recorded_images(file.parent, state, file),
    )
