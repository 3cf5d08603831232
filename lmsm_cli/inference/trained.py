"""A trained classifier, read back with all that evaluation, prediction and export need."""

from dataclasses import dataclass
from pathlib import Path

from lmsm_cli.config import Config
from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.images import recorded_images
from lmsm_cli.runtime.device import Runtime, choose_device, choose_runtime


@dataclass(frozen=True)
class Trained:
    """A checkpoint file, read back; the model is in eval mode."""

    file: Path
    state: CheckpointState
    model: Classifier
    config: Config
    """That of the state, but for another `data_dir`."""
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
    config = state.config_in(data_dir)
    return Trained(file, state, model, config, recorded_images(file.parent, state.images, file))
