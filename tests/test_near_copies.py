"""What near_copies.py promises: one picture at another size is found, other pictures are not."""

import io

import numpy as np
import torch
from PIL import Image

from lmsm_cli.data.identity import Copies, Pictures, as_digests
from lmsm_cli.data.image_files import fit
from lmsm_cli.data.near_copies import near_copies


def scene(seed):
    """Return a smooth picture of 96 x 64 pixels, unlike any other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC)


def again(picture, size):
    """Return a picture at another size, as a JPEG that loses something."""
    file = io.BytesIO()
    picture.resize(size).save(file, "JPEG", quality=75)
    return Image.open(file).convert("RGB")


def found(pictures, known=()):
    """Return the names of near copies among pictures: (name, label, part) -> picture."""
    parts, images = {}, {}
    for part in dict.fromkeys(part for _, _, part in pictures):
        own = {key: one for key, one in pictures.items() if key[2] == part}
        digests = as_digests([name.encode().ljust(16) for name, _, _ in own])
        labels = np.array([label for _, label, _ in own])
        parts[part] = Pictures(labels, digests, digests, [name for name, _, _ in own])
        images[part] = torch.from_numpy(np.stack([fit(one, 32) for one in own.values()]))
    return [set(one.names) for one in near_copies(parts, images, known)]


def test_a_picture_at_another_size_is_found_across_parts_and_classes():
    """Half and double the size, as JPEG, in another part or class; three are one group."""
    one, other = scene(1), scene(2)
    pictures = {(f"{seed}.png", 0, "training"): scene(seed) for seed in range(3, 300)}
    pictures |= {
        ("one.png", 0, "training"): one,
        ("half.jpg", 0, "test"): again(one, (72, 48)),
        ("double.jpg", 1, "test"): again(one, (192, 128)),
        ("other.png", 0, "training"): other,
        ("wrong.jpg", 1, "training"): again(other, (120, 80)),
    }
    groups = found(pictures)
    assert len(groups) == 2
    assert {"one.png", "half.jpg", "double.jpg"} in groups
    assert {"other.png", "wrong.jpg"} in groups


def test_copies_of_one_class_and_part_flat_pages_and_known_copies_are_not_told():
    """A burst is no leak; empty pages all look the same; what is known is said elsewhere."""
    one, page = scene(1), Image.new("RGB", (96, 64), "white")
    assert found({("a", 0, "training"): one, ("b", 0, "training"): again(one, (72, 48))}) == []
    assert found({("a", 0, "training"): page, ("b", 1, "test"): page}) == []
    pair = {("a", 0, "training"): one, ("b", 0, "test"): one}
    assert found(pair) == [{"a", "b"}]
    assert found(pair, [Copies(("a", "b"), (0, 0), ("training", "test"))]) == []


def test_a_brighter_picture_is_another():
    """Pictures that correlate fully but differ in their levels are not one picture."""
    one = scene(1)
    brighter = Image.fromarray((np.asarray(one) * 0.8).astype(np.uint8))
    assert found({("a", 0, "training"): one, ("b", 0, "test"): brighter}) == []
