"""A trained classifier, read back with all that evaluation, prediction and export need."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lmsm_cli.config import Config, dump
from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.models.affine import Affine
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.documents import CorrectionFacts, build
from lmsm_cli.runs.images import recorded_images
from lmsm_cli.runs.one_run import check_own
from lmsm_cli.runs.own_images import check_apart_from_run
from lmsm_cli.runtime.device import Runtime, choose_device, choose_runtime


@dataclass(frozen=True)
class Correction:
    """A finished correction of a classifier: the map of its logits, and what that is."""

    affine: Affine
    facts: CorrectionFacts

    def built_in(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {
            "scale": self.affine.scale.cpu(),
            "shift": self.affine.shift.cpu(),
            "facts": self.facts.to_json(),
        }


@dataclass(frozen=True)
class Trained:
    """A checkpoint file, read back; the model is in eval mode."""

    file: Path
    state: CheckpointState
    model: Classifier
    config: Config
    """That of the state, but for another `data_dir`."""
    correction: Correction | None = None
    """That which the model has built in."""
    is_data_named: bool = False
    """Whether the user said where the data is."""

    @cached_property
    def epoch_facts(self) -> dict[str, Any]:
        """Which epoch it is of, of how many, and whether that is the best on validation.

        Of averaged weights also how much of the average each step has kept.
        """
        epochs, ema = checkpoint.epochs_of(self.state, self.file), self.config.ema
        facts = {"epoch": self.state.epoch, "epochs": epochs, "is_best": self.state.is_best}
        return facts if ema is None else facts | {"ema": ema}

    @property
    def correction_facts(self) -> dict[str, Any] | None:
        """What corrects its answers, as plain lists and dicts; None where nothing does."""
        return self.correction.facts.to_json() if self.correction else None

    @cached_property
    def images(self) -> ImagesRecord | None:
        """images.npz of its run folder; None where it is not beside the checkpoint.

        Raises CheckpointError where it is damaged, or not of this checkpoint's images.
        """
        return recorded_images(self.file.parent, self.state.images, self.file)

    def check_apart(self, flag: str, path: Path) -> None:
        """Raise LmsmError where what a flag has written would lie among the run's images."""
        check_apart_from_run(flag, path, dump(self.config), self.model.classes)

    @property
    def is_flat(self) -> bool:
        """Whether a feature is a point of the plane."""
        return self.model.head.weight.shape[1] == 2

    def runtime(self, device: str) -> Runtime:
        """Apply the run's precision and layout, or the nearest that the device has; move the model.

        Raises LmsmError for a device that is not there.
        """
        config, precision = self.config, self.config.precision
        if precision == "bf16-conv" and choose_device(device).type == "cuda":
            precision = "bf16"
        runtime = choose_runtime(device, precision, config.layout, config.threads, net=self.model)
        runtime.apply()
        runtime.place(self.model)
        return runtime


def read_trained(path: Path, data_dir: Path | None = None, *, best: bool = False) -> Trained:
    """Read a checkpoint file or run folder, whose data is in `data_dir` if that is given.

    Of a run folder it is the last epoch, or with `best` the best on validation. Raises
    CheckpointError.
    """
    file = checkpoint.find(path, best=best)
    state = checkpoint.load(file)
    check_own(state, file)
    model = checkpoint.restore(state, file)
    correction = None
    if found := state.correction:
        correction = Correction(found.affine, build(CorrectionFacts, found.facts))
    config = state.config_in(data_dir)
    return Trained(file, state, model, config, correction, is_data_named=data_dir is not None)
