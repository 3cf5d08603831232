"""What losses refuse: values, shapes and types, each with the fact, the value and the way out."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.precision import HALF

# psi of a whole margin m costs m steps, and at 1000 it falls from an angle of 0.2 degrees on.
LARGEST_MARGIN = 1000
# What any option of a loss may be: beyond this float32 logits run out of range, and losses are NaN.
LARGEST_OPTION = 1e9


def wrong_type(what: str, value: object, way_out: str) -> ArgumentError:
    """Return the error of a value of another type."""
    return ArgumentError(f"{what} of type {type(value).__name__}: {way_out}")


def wrong_shape(what: str, values: Tensor, way_out: str) -> ArgumentError:
    """Return the error of a tensor of another shape."""
    return ArgumentError(f"{what} shape {tuple(values.shape)}: {way_out}")


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, of Python or NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


class ClassMarginError(ArgumentError):
    """A margin of a single class that cannot be: what is wrong, and the place of the class."""

    def __init__(self, place: int, problem: str) -> None:
        self.place, self.problem = place, problem
        super().__init__(self.of(str(place)))

    def of(self, name: str) -> str:
        """Return what is wrong, of a class by its name."""
        return f"the margin of class {name} {self.problem}"


def in_range(name: str, value: Any, low: float, high: float = LARGEST_OPTION) -> float:
    """Return the value of an option. Raises ArgumentError where it is not within [low, high]."""
    if not is_number(value) or not low <= value <= high:
        raise ArgumentError(
            f"{name} is {value!r}: give a finite number of at least {low:g} and at most {high:g}"
        )
    number: float = value
    return number


def one_of(name: str, value: Any, names: tuple[str, ...]) -> str:
    """Return a name. Raises ArgumentError where it is none of these."""
    if not isinstance(value, str) or value not in names:
        raise ArgumentError(f"{name} is {value!r}: give {', '.join(names[:-1])} or {names[-1]}")
    return value


def whole(name: str, value: Any, low: int) -> int:
    """Return a whole number. Raises ArgumentError where it is none, or below `low`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ArgumentError(f"{name} is {value!r}: give a whole number of at least {low}")
    return int(value)


def checked_chunk(class_chunk: int | None) -> int | None:
    """Return the classes of a chunk, None for all. Raises ArgumentError for other types."""
    return None if class_chunk is None else whole("class_chunk", class_chunk, 1)


def checked_counts(
    class_counts: Tensor | None, num_classes: int, loss: str, *, least: int = 1
) -> Tensor:
    """Return the training images per class (C,) as float64.

    Raises ArgumentError without them, and where a class has less than `least`, or all have none.
    """
    wanted, what = f"the training images of each class, ({num_classes},)", f"{loss}: class_counts"
    if class_counts is None:
        raise ArgumentError(f"{loss} needs class_counts: {wanted}")
    try:
        counts = torch.as_tensor(class_counts)
    except (TypeError, ValueError, RuntimeError):
        listed: Sequence[Any] = class_counts if isinstance(class_counts, list | tuple) else ()
        for number in listed:
            if not is_number(number):
                raise ArgumentError(f"{what} holds {number!r}: expected {wanted}") from None
        raise wrong_type(f"{what} is", class_counts, f"expected {wanted}") from None
    if counts.is_complex() or counts.dtype == torch.bool:
        raise ArgumentError(f"{what} are {counts.dtype}: expected numbers of training images")
    if counts.shape != (num_classes,):
        raise wrong_shape(f"{what} has", counts, f"expected ({num_classes},), one per class")
    wrong = counts[~((counts >= least) & counts.isfinite())]
    if len(wrong):
        fewest = f"expected training images, at least {least} of each class"
        raise ArgumentError(f"{what} holds {wrong[0].item():g}: {fewest}")
    if not counts.any():
        raise ArgumentError(f"{what} are all 0: expected {wanted}")
    return counts.detach().to("cpu", torch.float64)


def check_features(features: Tensor, weight: Tensor) -> None:
    """Raise ArgumentError where features are not (N, D), in half precision or the weight's type."""
    _check_dense("features", features)
    if features.ndim != 2 or features.shape[1] != weight.shape[1]:
        wide = f"expected (N, {weight.shape[1]}), as wide as the class weights"
        raise wrong_shape("features have", features, wide)
    wanted = HALF.get(weight.dtype, weight.dtype)
    if HALF.get(features.dtype, features.dtype) != wanted:
        types = f"{wanted} as the class weights, or half precision"
        raise ArgumentError(f"features are {features.dtype}: expected {types}")
    check_device("features are", features, "the class weights", weight)


def check_weight(weight: Tensor, fewest: str, least: int) -> None:
    """Raise ArgumentError where class weights are not floating point (C, D) with C >= `least`."""
    _check_dense("class weights", weight)
    if weight.ndim != 2 or len(weight) < least:
        raise wrong_shape("class weights have", weight, f"expected {fewest}")
    if weight.dtype not in (*HALF, torch.float32, torch.float64):
        raise ArgumentError(f"class weights are {weight.dtype}: expected floating point")


def _check_dense(name: str, values: Any) -> None:
    if not isinstance(values, Tensor):
        raise wrong_type(
            f"{name} are", values, "expected a torch tensor, as torch.as_tensor makes one"
        )
    if values.layout is not torch.strided:
        dense = "expected a dense tensor, as to_dense() makes one"
        raise ArgumentError(f"{name} have the layout {values.layout}: {dense}")


def check_batch(features: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise ArgumentError where features are not (N, D) with N > 0, labels not (N,) in 0..C-1.

    The range of labels is checked on the CPU alone: reading them from an accelerator would make
    every step wait, and its own assertion reports them.
    """
    check_weight(weight, "(C, D), two classes at least", 2)
    check_images(features, weight, labels)
    if readable(labels):
        low, high = (int(extreme) for extreme in labels.aminmax())
        if low < 0 or high >= len(weight):
            wanted = f"expected 0 to {len(weight) - 1}, there are {len(weight)} classes"
            raise ArgumentError(f"labels run from {low} to {high}: {wanted}")


def check_images(features: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise ArgumentError unless `check_features` passes, N > 0 and labels are int64 (N,)."""
    check_features(features, weight)
    num_images = len(features)
    if not num_images:
        raise ArgumentError(f"the batch is empty: features have shape {tuple(features.shape)}")
    _check_dense("labels", labels)
    if labels.shape != (num_images,):
        wanted = f"expected ({num_images},), one class number per image"
        if labels.ndim == 2 and len(labels) == num_images and labels.shape[1] > 1:
            wanted += "; one-hot and soft labels are not taken, labels.argmax(dim=1) gives numbers"
        raise wrong_shape("labels have", labels, wanted)
    if labels.dtype != torch.int64:
        wanted = "expected torch.int64 class numbers, as labels.long() makes them"
        raise ArgumentError(f"labels are {labels.dtype}: {wanted}; soft labels are not taken")
    check_device("labels are", labels, "the features", features)


def check_device(what: str, values: Tensor, where: str, others: Tensor) -> None:
    """Raise ArgumentError where tensors are on two devices."""
    if values.device != others.device:
        raise ArgumentError(
            f"{what} on {values.device}, {where} on {others.device}: bring them to one device"
        )


def check_margin(margin: Any, num_classes: int | None = None) -> int | float | Tensor:
    """Return the margin, whole ones as int.

    Raises ArgumentError where one is not a number from 1 to LARGEST_MARGIN, or, with `num_classes`,
    where a tensor is not one number or one per class.
    """
    if isinstance(margin, Tensor):
        check_constant("margin", margin)
        if num_classes is not None and margin.shape not in ((), (num_classes,)):
            wanted = f"expected one number or ({num_classes},), one per class"
            raise wrong_shape("margin has", margin, wanted)
        if not readable(margin):
            return margin
        wrong = margin.detach()[~((margin >= 1) & (margin <= LARGEST_MARGIN))]
        if not len(wrong):
            return margin
        raise ArgumentError(
            f"margin is a tensor that holds {wrong[0].item():g}: "
            f"give numbers of at least 1 (1 is plain softmax) and at most {LARGEST_MARGIN}"
        )
    if not is_number(margin) or not 1 <= margin <= LARGEST_MARGIN:
        raise ArgumentError(
            f"margin is {margin!r}: give a number of at least 1 (1 is plain softmax) and at most "
            f"{LARGEST_MARGIN}; for larger ones of rarer classes: lsoftmax:margin=tail, "
            f"or in Python a tensor (C,)"
        )
    number = float(margin)
    return int(number) if number.is_integer() else number


def with_class_margins(
    margin: float | Tensor,
    class_margins: Mapping[int, float] | None,
    num_classes: int,
    low: float,
    high: float,
) -> Tensor | None:
    """Return the margins of all classes (C,), in float64; None where no class has its own.

    Args:
        margin: of the classes that are not named: one number, or one per class.
        class_margins: the margins of single classes, by their places.
        num_classes: C.
        low, high: what a margin can be.

    Raises ArgumentError for another type and for a place that no class has, ClassMarginError for a
    margin outside of that.
    """
    if class_margins is None:
        return None
    if not isinstance(class_margins, Mapping):
        of_places = (
            f"give the margins of classes by their places, as {{{num_classes - 1}: {low + 1:g}}}"
        )
        raise wrong_type("class_margins is", class_margins, of_places)
    if not class_margins:
        return None
    margins = torch.as_tensor(margin, dtype=torch.float64).expand(num_classes).clone()
    for place, own in class_margins.items():
        if isinstance(place, bool) or not isinstance(place, Integral):
            raise ArgumentError(
                f"class_margins names class {place!r}: give its place, 0 to {num_classes - 1}; "
                "build_head takes names where all are names and it is given class_names"
            )
        if not 0 <= place < num_classes:
            raise ArgumentError(
                f"class_margins names class {place}: there are 0 to {num_classes - 1}"
            )
        try:
            margins[place] = in_range("the margin", own, low, high)
        except ArgumentError as error:
            raise ClassMarginError(place, str(error).removeprefix("the margin ")) from None
    return margins


def check_constant(name: str, values: Tensor) -> None:
    """Raise ArgumentError where a tensor holds no real numbers, or requires a gradient."""
    if values.is_complex() or values.dtype == torch.bool:
        raise ArgumentError(f"{name} is a tensor of {values.dtype}: give real numbers")
    if values.requires_grad:
        raise ArgumentError(f"{name} requires a gradient: it is a constant of the loss; detach it")


def single_number(name: str, values: Tensor) -> Tensor:
    """Return a tensor of one real number, as (). Raises ArgumentError for any other."""
    check_constant(name, values)
    if values.numel() != 1:
        raise wrong_shape(f"{name} has", values, "give one number")
    return values if values.ndim == 0 else values.reshape(())


def readable(values: Tensor) -> bool:
    """Return whether reading the values waits for no accelerator and breaks no graph."""
    return (
        values.device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed()
    )


def is_transformed() -> bool:
    """Return whether a transform of torch.func (vmap, grad, ...) is active."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def refuse_transforms(what: str, *inputs: Tensor) -> None:
    """Raise ArgumentError under torch.func and for dual numbers.

    A closed-form gradient works with neither.
    """
    if is_transformed():
        raise ArgumentError(
            f"{what} cannot be transformed by torch.func (vmap, grad, jacrev, ...): its gradient "
            f"is in closed form; call it on the whole batch, and differentiate with backward or "
            f"torch.autograd.grad"
        )
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    duals = [forward_ad.unpack_dual(values) for values in inputs]  # type: ignore[no-untyped-call]
    if any(dual.tangent is not None for dual in duals):
        raise ArgumentError(
            f"{what} cannot be differentiated in forward mode (torch.autograd.forward_ad): "
            f"differentiate with backward or torch.autograd.grad"
        )


def refuse_second_derivative() -> None:
    """Raise ArgumentError in a backward pass with create_graph=True: a silent zero would follow."""
    if torch.is_grad_enabled():
        raise ArgumentError("a margin loss can be differentiated only once")
