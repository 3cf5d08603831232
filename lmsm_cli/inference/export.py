"""A checkpoint as one file for other programs: ONNX, or a program of torch.export.

The file takes uint8 images (N, C, H, W), any N, as they come from an image file: the normalisation
is inside. It gives `logits` and `probabilities` (N, num_classes), both without a margin; a
correction of the answers is inside too. Nothing is written before the file's answers are found
equal to the checkpoint's, to rounding. To add a format, add a function to `_WRITERS` and what runs
such a file to `_READERS`.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lmsm_cli import __version__
from lmsm_cli.data import sources
from lmsm_cli.data.image_files import preparation
from lmsm_cli.data.splits import folder_options, load_test
from lmsm_cli.errors import DataError, LmsmError, RunError, missing_extra
from lmsm_cli.inference.correction import RequestedCorrection, corrected
from lmsm_cli.inference.effect import check_up
from lmsm_cli.inference.trained import Trained, read_trained
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import RunFolder, check_place, write_whole
from lmsm_cli.runtime.device import choose_runtime
from lmsm_cli.runtime.display import Display
from lmsm_cli.training.evaluate import answers, scores_of

# images (N, C, H, W) -> logits (N, num_classes)
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2"}
OUTPUTS = ("logits", "probabilities")
# What rounding moves logits by, as a share of the largest one; 6e-6 was the most seen. A net that
# has collapsed rounds more, but never so much.
_ROUNDING, _MUCH = 1e-4, 10
_BATCH = 250
_EXTRA_FILE = "lmsm.json"  # inside a .pt2


class _Answering(nn.Module):
    """The classifier as it is exported: both outputs, by name."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits and probabilities (N, num_classes) of uint8 images (N, C, H, W)."""
        logits = self.model(images)
        return dict(zip(OUTPUTS, (logits, logits.softmax(dim=1)), strict=True))


def export_checkpoint(
    path: Path,
    display: Display,
    *,
    form: str = "onnx",
    out: Path | None = None,
    num_images: int = 1000,
    data_dir: Path | None = None,
    correction: RequestedCorrection | None = None,
) -> dict[str, Any]:
    """Write a checkpoint as an ONNX file or a torch.export program, and return what it is.

    Args:
        path: The checkpoint file or run folder.
        display: Where progress and warnings go.
        form: `onnx` or `torch`.
        out: The file to write; model.onnx or model.pt2 beside the checkpoint if None, best.onnx or
            best.pt2 beside best.pt, adjusted.onnx or adjusted.pt2 where it is corrected.
        num_images: How many test images to verify the file on first; drawn ones where there is
            no data.
        data_dir: Where the run's data is now, if elsewhere than the run had it.
        correction: What corrects the answers; the file contains it.

    Raises CheckpointError, DiskError, RunError where the answers differ, LmsmError where a package
    is missing or a correction is impossible here.
    """
    check_extra(form)
    source = checkpoint.find(path)
    # a file of any other name may lie beside a run's, whose export it must not replace
    name = "model" if source == RunFolder(source.parent).checkpoint else source.stem
    if correction:
        name = "adjusted"
    given, out = out, out or source.with_name(f"{name}{SUFFIXES[form]}")
    if out.suffix in SUFFIXES.values() and out.suffix != SUFFIXES[form]:
        raise LmsmError(
            f"--out is {str(out)!r}, and --format {form} writes {SUFFIXES[form]}: make them agree"
        )
    trained = read_trained(path, data_dir)
    check_place(out, (SUFFIXES[form],), [source])
    if given:  # by itself it lies beside the checkpoint
        trained.check_apart("--out", given)
    effect: dict[str, Any] = {}
    if correction:
        found = corrected(trained, correction, "cpu", display)
        trained, effect = found.trained, check_up(found, "cpu", display).to_json()
    images, of = _test_images(trained, num_images, display)
    facts = _facts(trained)
    exporting = f"exporting {trained.file}"
    display.progress(exporting, 0, 0)
    content = _WRITERS[form](_program(trained.model, trained.state.image_shape), facts)
    run = _READERS[form](content)
    display.progress(exporting, 1, 1)
    verification = _verified(run, trained.model, images, of, display)
    write_whole(out, content)
    return {
        "file": str(out),
        "format": form,
        "bytes": len(content),
        "checkpoint": str(trained.file),
        **facts,
        **effect,
        "verification": verification,
    }


def check_extra(form: str) -> None:
    """Raise LmsmError where a package that a format needs is not installed."""
    if form != "onnx":
        return
    try:
        import onnx
        import onnxruntime
        import onnxscript

        del onnx, onnxruntime, onnxscript
    except ImportError as error:
        raise missing_extra("--format onnx", error, "export") from None


def _facts(trained: Trained) -> dict[str, Any]:
    state = trained.state
    height, width, channels = state.image_shape
    config = state.config
    return {
        "lmsm_version": __version__,
        "model": config.model,
        "loss": config.loss,
        "dataset": config.dataset,
        **trained.epoch_facts,
        "classes": state.classes,
        "input": "images: uint8 (N, C, H, W), 0 to 255, RGB where there are 3 channels; "
        "the normalisation is inside",
        "preparation": preparation(config.resize, height, config.kept_size),
        "image_height": height,
        "image_width": width,
        "channels": channels,
        "mean": state.mean,
        "std": state.std,
        "correction": trained.correction_facts,
    }


def _test_images(trained: Trained, count: int, display: Display) -> tuple[Tensor, str]:
    """Return images (N, H, W, C) to verify on, and what they are; nothing is downloaded."""
    config, shape = trained.config, trained.state.image_shape
    try:
        options = folder_options(config)
        if sources.find_dataset(config.dataset, config.data_dir, options) is None:
            raise DataError(f"{config.dataset} is not below {config.data_dir}")
        # any test images do to verify on
        test = load_test(config.model_copy(update={"skip_unreadable": True}), display)
        if list(test.images.shape[1:]) != shape:
            raise DataError(f"the images in {config.data_dir} have another shape than the run's")
    except LmsmError as error:
        display.warning(
            f"the run's test images cannot be had: {error}; "
            "verifying on drawn images instead (give the data with --data-dir)"
        )
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
        return drawn, "drawn images"
    places = torch.linspace(0, len(test) - 1, min(count, len(test))).long()  # of every class
    return test.images[places], f"test images of {config.dataset}"


def _program(model: Classifier, image_shape: list[int]) -> torch.export.ExportedProgram:
    """Return the classifier as a graph over any number of images of (H, W, C)."""
    height, width, channels = image_shape
    two = torch.zeros(2, channels, height, width, dtype=torch.uint8)  # 1 would be taken for fixed
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(_Answering(model).eval(), (two,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would tell the paths of this machine
    return program


def _onnx_file(program: torch.export.ExportedProgram, facts: dict[str, Any]) -> bytes:
    exported = torch.onnx.export(
        program, (), input_names=["images"], output_names=list(OUTPUTS), dynamo=True, verbose=False
    )
    assert exported is not None
    proto = exported.model_proto
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    for part in (*proto.graph.node, *values):
        del part.metadata_props[:]
    for value in values:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # the exporter's own name for the number of images
                size.dim_param = "N"
    proto.producer_name, proto.producer_version = "lmsm", __version__
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.add(key=key, value=text)
    content: bytes = proto.SerializeToString()
    return content


def _torch_file(program: torch.export.ExportedProgram, facts: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={_EXTRA_FILE: json.dumps(facts)})
    return buffer.getvalue()


def _onnx_run(content: bytes) -> Run:
    import onnx
    import onnxruntime

    onnx.checker.check_model(content, full_check=True)
    onnxruntime.set_default_logger_severity(3)  # what it says of the machine's devices is no error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


def _torch_run(content: bytes) -> Run:
    program = torch.export.load(io.BytesIO(content)).module()
    return lambda images: program(torch.from_numpy(images))["logits"].numpy(force=True)


_WRITERS: dict[str, Callable[[torch.export.ExportedProgram, dict[str, Any]], bytes]] = {
    "onnx": _onnx_file,
    "torch": _torch_file,
}
_READERS: dict[str, Callable[[bytes], Run]] = {"onnx": _onnx_run, "torch": _torch_run}


def _verified(
    run: Run, model: Classifier, images: Tensor, of: str, display: Display
) -> dict[str, Any]:
    """Return how far the file's answers are from the model's. Raises RunError beyond rounding."""
    runtime = choose_runtime("cpu", "fp32")
    runtime.apply()
    expected = scores_of(model, images, runtime)
    # a single image first: the number of images must be free
    parts = [images[:1], *(part for part in torch.split(images[1:], _BATCH) if len(part))]
    answered: list[NDArray[np.float32]] = []
    for part in parts:
        display.progress(f"verifying on {len(images):,} {of}", sum(map(len, answered)), len(images))
        answered.append(run(_channels_first(part)))
    display.progress(f"verifying on {len(images):,} {of}", len(images), len(images))
    given = torch.from_numpy(np.concatenate(answered))
    largest = float((given - expected).abs().max())
    (own, _), (others, _) = answers(expected), answers(given)
    rounding = _ROUNDING * float(expected.abs().max())
    first, second = expected.topk(2).values.T.numpy()
    wrong = int(((own != others) & (first - second > rounding)).sum())
    if wrong or largest > _MUCH * rounding:
        raise RunError(
            f"the exported file gives other answers than the checkpoint: of {len(images)} {of}, "
            f"{wrong} get another class beyond rounding, and a logit differs by {largest:.3g} "
            f"of {expected.abs().max():.3g}; nothing was written"
        )
    same = float((own == others).mean())
    return {"images": len(images), "of": of, "largest_difference": largest, "same_top1": same}


def _channels_first(images: Tensor) -> NDArray[np.uint8]:
    return images.permute(0, 3, 1, 2).contiguous().numpy()
