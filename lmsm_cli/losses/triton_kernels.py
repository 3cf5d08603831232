"""What losses do vector by vector as Triton kernels: margin cross-entropy, and vectors at length 1.

Without Triton, which torch brings for CUDA on Linux alone, the import of this file fails. What the
numbers mean is said in `kernel` and `directions`, whose torch operations they are held against.
Comparisons are written so that NaN stays NaN, which the minimum and maximum of a GPU would drop.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers of a row that a program holds at a time.
_MOST_CLASSES, _MOST_FEATURES = 2048, 1024
_IMAGES = 128  # that one program of the backward pass takes


@triton.jit
def _acos(cos):
    """Return the angle of a cosine, to the last bit or two of float32; as in fdlibm's e_acosf.c."""
    size = tl.abs(cos)
    is_small = size < 0.5
    square = tl.where(is_small, cos * cos, 0.5 * (1 - size))
    top = 0.16666586697 + square * (-0.042743422091 - square * 0.0086563630030)
    bend = square * tl.div_rn(top, 1 - 0.70662963390 * square)
    root = tl.sqrt_rn(square)
    near = 2 * (root + root * bend)
    far = 3.14159265358979 - near
    middle = 1.57079632679490 - (cos + cos * bend)
    return tl.where(is_small, middle, tl.where(cos > 0, near, far))


@triton.jit
def _by_polynomial(cos, margin: tl.constexpr):
    """Return psi and its slope for a whole margin, as `margins.psi_and_slope` does."""
    k = cos * 0
    first_before, first = k + 1, cos
    second_before, second = k, k + 1
    for j in range(1, margin):
        k += tl.where(cos < tl.cos(j * (3.14159265358979 / margin)), 1.0, 0.0)
        first_before, first = first, 2 * cos * first - first_before
        second_before, second = second, 2 * cos * second - second_before
    sign = 1 - 2 * (k - 2 * tl.floor(0.5 * k))
    return sign * first - 2 * k, margin * sign * second


@triton.jit
def _by_angle(cos, margin):
    """Return psi and its slope for any margin, as `margins.psi_and_slope` does."""
    theta = _acos(cos)
    k = tl.floor(tl.div_rn(margin * theta, 3.14159265358979))
    sign = 1 - 2 * (k - 2 * tl.floor(0.5 * k))
    sine = tl.sqrt_rn((1 - cos) * (1 + cos))
    ratio = tl.div_rn(tl.sin(margin * theta), tl.where(sine < 0.001, 0.001, sine))
    ratio = tl.where(cos > 0.9999995, margin, ratio)
    return sign * tl.cos(margin * theta) - 2 * k, margin * sign * ratio


@triton.jit
def _turned(cos, margin, difficulty, form: tl.constexpr):
    """Return the cosine of an angle with a margin, as `arcface_margin` and `dbm_margin` do."""
    turn = margin * (1 + difficulty * (1 - cos) / 2)
    turn_cos, turn_sin = tl.cos(turn), tl.sin(turn)
    sine = tl.sqrt_rn((1 - cos) * (1 + cos))
    off_pole = tl.where(sine < 0.001, 0.001, sine)
    if form == "arcface":
        slope = turn_cos + tl.div_rn(cos * turn_sin, off_pole)
        value_past, slope_past = cos - margin * turn_sin, 1.0
    else:
        faster = difficulty * margin / 2
        ahead = sine * turn_cos + cos * turn_sin
        slope = tl.div_rn(ahead, off_pole) + faster * ahead
        value_past, slope_past = cos + turn_cos - 1, 1 + faster * turn_sin
    is_past = cos < -turn_cos
    value = tl.where(is_past, value_past, cos * turn_cos - sine * turn_sin)
    return value, tl.where(is_past, slope_past, slope)


@triton.jit
def _annealed(cos, own, lam, margin: tl.constexpr):
    """Return L-Softmax's target under lambda and its slope, as `annealed_margin` does."""
    if margin == margin // 1:
        value, slope = _by_polynomial(cos, margin)
    else:
        value, slope = _by_angle(cos, own)
    bent = tl.div_rn(1.0, 1 + lam)
    return cos + (value - cos) * bent, 1 + (slope - 1) * bent


@triton.jit
def _bend(cos, own, difficulty, lam, margin: tl.constexpr, form: tl.constexpr):
    """Return what a margin makes of a cosine, and its slope; see `margins`.

    At a difficulty of 0 there is none, or it is DBM's smaller one. `own` is the image's margin,
    `margin` that of all, where it is one.
    """
    if form == "dbm":
        value, slope = _turned(cos, own, difficulty, form)
    else:
        if form == "cosface":
            value, slope = cos - own, cos * 0 + 1
        elif form == "arcface":
            value, slope = _turned(cos, own, 0.0, form)
        else:
            value, slope = _annealed(cos, own, lam, margin)
        value = tl.where(difficulty > 0, value, cos)
        slope = tl.where(difficulty > 0, slope, 1.0)
    return value, slope


@triton.jit
def _lambda(given, form: tl.constexpr, law: tl.constexpr):
    """Return lambda: `given` itself, or a law's at the progress `given`; see `Annealing`."""
    start: tl.constexpr = law[0]
    minimum: tl.constexpr = law[1]
    end: tl.constexpr = law[2]
    x = tl.div_rn(given, given * 0 + end)
    x = tl.where(x > 1, 1.0, x)
    if form == "power":
        gamma: tl.constexpr = law[3]
        power: tl.constexpr = law[4]
        lam = start * tl.exp(-power * tl.log(1 + gamma * x))
        lam = tl.where(lam < minimum, minimum, lam)
    elif form == "exponential":
        log_first: tl.constexpr = law[5]
        log_ratio: tl.constexpr = law[6]
        lam = tl.exp(log_first + log_ratio * x) - 1
    elif form == "cosine":
        lam = minimum + (start - minimum) * (1 + tl.cos(x * 3.14159265358979)) / 2
    elif form == "linear":
        lam = start + (minimum - start) * x
    else:
        lam = given
    return lam


@triton.jit
def _norms(features, weight, num_features, block: tl.constexpr):
    """Return the lengths of a feature and of a class weight, each at least 1e-12."""
    of_feature, of_weight = 0.0, 0.0
    for first in range(0, num_features, block):
        places = first + tl.arange(0, block)
        inside = places < num_features
        x = tl.load(features + places, mask=inside, other=0.0)
        w = tl.load(weight + places, mask=inside, other=0.0)
        of_feature += tl.sum(x * x)
        of_weight += tl.sum(w * w)
    of_feature, of_weight = tl.sqrt_rn(of_feature), tl.sqrt_rn(of_weight)
    of_feature = tl.where(of_feature < 1e-12, 1e-12, of_feature)
    return of_feature, tl.where(of_weight < 1e-12, 1e-12, of_weight)


@triton.jit
def _count_not_below(logits, product, num_classes, block: tl.constexpr):
    """Return how many logits of a row are no smaller than that of its label."""
    count = 0
    for first in range(0, num_classes, block):
        places = first + tl.arange(0, block)
        row = tl.load(logits + places, mask=places < num_classes, other=float("-inf"))
        count += tl.sum(tl.where(row >= product, 1, 0))
    return count


@triton.jit
def _others(logits, offset, label, places, num_classes):
    """Return a block of a row's logits with their offsets, -inf for the label and past the end."""
    inside = places < num_classes
    row = tl.load(logits + places, mask=inside, other=float("-inf"))
    if offset is not None:
        row += tl.load(offset + places, mask=inside, other=0.0)
    return tl.where(places == label, float("-inf"), row)


@triton.jit
def _weigh(logits, offset, label, slope, shares, num_classes, block: tl.constexpr):
    """Write the softmax over the other classes, -slope at the label; return their log-sum-exp."""
    top = float("-inf")
    for first in range(0, num_classes, block):
        row = _others(logits, offset, label, first + tl.arange(0, block), num_classes)
        largest = tl.max(row)
        top = tl.where(largest > top, largest, top)
    total = 0.0
    for first in range(0, num_classes, block):
        row = _others(logits, offset, label, first + tl.arange(0, block), num_classes)
        total += tl.sum(tl.exp(row - top))
    for first in range(0, num_classes, block):
        places = first + tl.arange(0, block)
        row = _others(logits, offset, label, places, num_classes)
        share = tl.where(places == label, -slope, tl.exp(row - top) / total)
        tl.store(shares + places, share, mask=places < num_classes)
    return top + tl.log(total)


@triton.jit
def _softplus(gap):
    """Return log(1 + e^gap); the digits of a tiny one stay."""
    small = tl.exp(-tl.abs(gap))
    one_more = 1 + small
    rounded = one_more - 1
    # log(1 + s) = s log(u) / (u - 1) for the rounded u = 1 + s (Kahan)
    log = small * tl.div_rn(tl.log(one_more), tl.where(rounded == 0, 1.0, rounded))
    return tl.where(gap > 0, gap, 0.0) + tl.where(rounded == 0, small, log)


# A kernel is compiled anew for numbers and addresses of another kind, which no capture allows: only
# what is the same for all batches of a training may tell kinds apart.
@triton.jit(do_not_specialize_on_alignment=["labels", "margins", "offset", "given"])
def _margin_rows(
    losses, gaps, pulls_features, pulls_weight, shares,
    logits, features, weight, labels, margins, offset, given, lam,
    num_classes, num_features, of_logits, of_features, of_weight,
    margin: tl.constexpr, form: tl.constexpr, law: tl.constexpr,
    by_difficulty: tl.constexpr, detached_norms: tl.constexpr,
    classes_at_once: tl.constexpr, features_at_once: tl.constexpr,
):  # fmt: skip
    """Work out an image's loss, a program an image; see `kernel.margin_cross_entropy`."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    is_class = (label >= 0) & (label < num_classes)
    label = tl.where(is_class, label, 0)
    logits += row * of_logits
    norm, weight_norm = _norms(
        features + row * of_features, weight + label * of_weight, num_features, features_at_once
    )
    scale = norm * weight_norm
    product = tl.load(logits + label)
    cos = tl.div_rn(product, scale)
    cos = tl.where(cos > 1, 1.0, tl.where(cos < -1, -1.0, cos))
    own = cos * 0 + margin
    if margins is not None:
        own = tl.load(margins + label)
    if given is not None:
        lam = _lambda(tl.load(given), form, law)
    difficulty = cos * 0 + 1
    if by_difficulty:
        not_below = _count_not_below(logits, product, num_classes, classes_at_once)
        difficulty = tl.where(not_below > 1, 1.0, 0.0)
    value, slope = _bend(cos, own, difficulty, lam, margin, form)
    ratio = tl.div_rn(weight_norm, norm)
    radial = value - cos * slope
    along = cos - cos * slope if detached_norms else radial
    logit = scale * value
    if offset is not None:
        logit += tl.load(offset + label)
    shares += row * num_classes
    rest = _weigh(logits, offset, label, slope, shares, num_classes, classes_at_once)
    gap = rest - logit
    # a label that is no class shows in the loss: reading labels would make the host wait
    tl.store(losses + row, tl.where(is_class, _softplus(gap), float("nan")))
    tl.store(gaps + row, gap)
    tl.store(pulls_features + row, radial * ratio)
    tl.store(pulls_weight + row, tl.div_rn(along, ratio))


@triton.jit(do_not_specialize=["num_images"], do_not_specialize_on_alignment=["grads"])
def _weighed_rows(
    excess, weighed_features, weighed_weight, gaps, grads, pulls_features, pulls_weight,
    num_images, of_grads, at_once: tl.constexpr,
):  # fmt: skip
    """Multiply the pulls of images by sigmoid(gap) times the gradient of their losses."""
    rows = tl.program_id(0).to(tl.int64) * at_once + tl.arange(0, at_once)
    inside = rows < num_images
    gap = tl.load(gaps + rows, mask=inside, other=0.0)
    small = tl.exp(-tl.abs(gap))
    value = tl.where(gap < 0, small, 1.0) / (1 + small)
    value *= tl.load(grads + rows * of_grads, mask=inside, other=0.0)
    tl.store(excess + rows, value, mask=inside)
    pull = tl.load(pulls_features + rows, mask=inside, other=0.0)
    tl.store(weighed_features + rows, value * pull, mask=inside)
    pull = tl.load(pulls_weight + rows, mask=inside, other=0.0)
    tl.store(weighed_weight + rows, value * pull, mask=inside)


@triton.jit
def _direction_rows(found, inverses, vectors, width, of_vectors, at_once: tl.constexpr):
    """Divide a vector by its norm, a program a vector; see `directions`."""
    row = tl.program_id(0).to(tl.int64)
    vectors += row * of_vectors
    found += row * width
    total = 0.0
    for first in range(0, width, at_once):
        places = first + tl.arange(0, at_once)
        values = tl.load(vectors + places, mask=places < width, other=0.0)
        total += tl.sum(values * values)
    norm = tl.sqrt_rn(total)
    is_zero = norm <= 1e-12
    inverse = tl.div_rn(1.0, tl.where(is_zero, 1.0, norm))
    inverse = tl.where(is_zero, 0.0, tl.where(norm == float("inf"), float("nan"), inverse))
    for first in range(0, width, at_once):
        places = first + tl.arange(0, at_once)
        values = tl.load(vectors + places, mask=places < width, other=0.0)
        tl.store(found + places, values * inverse, mask=places < width)
    tl.store(inverses + row, inverse)


@triton.jit
def _direction_gradients(
    gradients, grads, found, inverses, width, of_grads, at_once: tl.constexpr
):  # fmt: skip
    """Give a vector the gradient of its direction, a program a vector."""
    row = tl.program_id(0).to(tl.int64)
    grads += row * of_grads
    found += row * width
    along = 0.0
    for first in range(0, width, at_once):
        places = first + tl.arange(0, at_once)
        grad = tl.load(grads + places, mask=places < width, other=0.0)
        along += tl.sum(grad * tl.load(found + places, mask=places < width, other=0.0))
    inverse = tl.load(inverses + row)
    for first in range(0, width, at_once):
        places = first + tl.arange(0, at_once)
        grad = tl.load(grads + places, mask=places < width, other=0.0)
        grad -= along * tl.load(found + places, mask=places < width, other=0.0)
        tl.store(gradients + row * width + places, grad * inverse, mask=places < width)


def margin_cross_entropy(
    batch: Sequence[Tensor],
    margins: Tensor | None,
    offset: Tensor | None,
    given: Tensor | None,
    form: str,
    numbers: Sequence[float],
    flags: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Do the work of `kernel.margin_cross_entropy` in one launch, of float32 tensors."""
    logits, features, weight, labels = batch
    margin, lam, *law = numbers
    shares = torch.empty_like(logits, memory_format=torch.contiguous_format)
    found = [torch.empty_like(logits[:, 0]) for _ in range(4)]
    num_images, num_classes = logits.shape
    num_features = features.shape[1]
    with torch.cuda.device_of(logits):
        _margin_rows[(num_images,)](
            *found, shares, logits, features, weight, labels, margins, offset, given, lam,
            num_classes, num_features, logits.stride(0), features.stride(0), weight.stride(0),
            int(margin) if margin == int(margin) else margin, form, tuple(law), *flags,
            min(triton.next_power_of_2(num_classes), _MOST_CLASSES),
            _at_once(num_features),
        )  # fmt: skip
    return *found, shares


def margin_pulls(
    gaps: Tensor, grads: Tensor, pulls_features: Tensor, pulls_weight: Tensor
) -> tuple[Tensor, ...]:
    """Do the work of `kernel.margin_pulls` in one launch, of float32 tensors (N,)."""
    found = tuple(torch.empty_like(gaps) for _ in range(3))
    with torch.cuda.device_of(gaps):
        _weighed_rows[(triton.cdiv(len(gaps), _IMAGES),)](
            *found, gaps, grads, pulls_features, pulls_weight, len(gaps), grads.stride(0), _IMAGES
        )
    return found


def directions(vectors: Tensor) -> tuple[Tensor, ...]:
    """Do the work of `directions.directions` in one launch, of float32 vectors."""
    found = torch.empty_like(vectors, memory_format=torch.contiguous_format)
    inverses = torch.empty_like(found[:, 0])
    num_vectors, width = vectors.shape
    with torch.cuda.device_of(vectors):
        _direction_rows[(num_vectors,)](
            found, inverses, vectors, width, vectors.stride(0), _at_once(width)
        )
    return found, inverses


def directions_backward(grads: Tensor, found: Tensor, inverses: Tensor) -> Tensor:
    """Do the work of `directions.directions_backward` in one launch, of float32 vectors."""
    grads = grads if grads.stride(1) == 1 else grads.contiguous()
    gradients = torch.empty_like(found)
    num_vectors, width = found.shape
    with torch.cuda.device_of(found):
        _direction_gradients[(num_vectors,)](
            gradients, grads, found, inverses, width, grads.stride(0), _at_once(width)
        )
    return gradients


def _at_once(width: int) -> int:
    return int(min(triton.next_power_of_2(width), _MOST_FEATURES))
