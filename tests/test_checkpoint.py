"""Checkpoints: whole or untouched, verified, plain data, and nothing executed."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from lmsm_cli import load_checkpoint
from lmsm_cli.errors import ArgumentError, CheckpointError, DiskError
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runs import checkpoint

CONFIG = {"model": "paper-2d", "neck": "linear", "loss": "lsoftmax:margin=3"}


@pytest.fixture
def model():
    """A small untrained classifier."""
    torch.manual_seed(0)
    return build_classifier(ModelSpec(**CONFIG), classes=("cat", "dog"), mean=(0.4,), std=(0.2,))


@pytest.fixture
def saved(model, tmp_path):
    """Its checkpoint file."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(
        checkpoint.state_of(model, CONFIG, train_counts=[5, 5], image_shape=[28, 28, 1], epoch=1),
        path,
    )
    return path


@pytest.mark.parametrize("path", [None, 5, {"schema": 2}, torch.zeros(2)])
def test_what_is_no_path_is_refused(path):
    """A state or a number in place of the path is an error in words."""
    with pytest.raises(ArgumentError, match="load_checkpoint: the path is of type"):
        load_checkpoint(path)


def test_a_checkpoint_gives_the_same_predictions(model, saved):
    """Loaded from the file or from its folder, the classifier scores images as the saved one."""
    images = torch.randint(256, (6, 1, 28, 28), dtype=torch.uint8)
    model.eval()
    for path in (saved, str(saved), saved.parent):
        loaded = load_checkpoint(path)
        assert not loaded.training
        assert loaded.classes == ("cat", "dog")
        assert torch.equal(loaded(images), model(images))
        assert torch.equal(loaded.predict(images), model.predict(images))


@pytest.mark.parametrize("side", [(16, 16), (28, 56), (56, 28)])
def test_images_of_another_size_are_refused(model, saved, side):
    """The net would answer, and mostly wrongly; one in training, or told to, takes any size."""
    images, loaded = torch.zeros(2, 1, *side, dtype=torch.uint8), load_checkpoint(saved)
    message = f"images have {side[0]} x {side[1]} pixels: .* trained with 28 x 28; bring them to"
    for call in (loaded, loaded.predict):
        with pytest.raises(ArgumentError, match=message):
            call(images)
    model.eval()
    loaded.image_size = None
    assert torch.equal(loaded(images), model(images))


def test_only_plain_data_is_stored(saved):
    """torch's own weights-only reader takes every value in the file."""
    state = torch.load(saved, weights_only=True)
    assert state["schema"] == checkpoint.SCHEMA
    assert type(state["classes"]) is list
    assert not list(saved.parent.glob(".*.tmp"))


def zipped(members):
    """Return the bytes of a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def saved_bytes(state):
    """Return the bytes of a torch file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def damage(path, kind):
    """Damage a file in one of the ways that disks and downloads do."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "half": content[:middle],
            "short by one": content[:-1],
            "zeros at its end": content[:-500] + bytes(500),
            "flipped byte": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "html": b"<html>404 not found</html>",
            "pickle": pickle.dumps({"schema": 1}),
            "zip of an empty pickle": zipped({"data.pkl": b""}),
            "zip of a bad pickle": zipped({"archive/data.pkl": b"]", "archive/version": b"3"}),
            "other schema": saved_bytes({"schema": 1, "config": 3}),
        }[kind]
    )


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "half",
        "short by one",
        "zeros at its end",
        "flipped byte",
        "html",
        "pickle",
        "zip of an empty pickle",
        "zip of a bad pickle",
        "other schema",
    ],
)
def test_damaged_files_are_refused(saved, kind):
    """Whatever is no whole checkpoint is refused with exit code 4 and its name."""
    damage(saved, kind)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt") as error:
        load_checkpoint(saved)
    assert error.value.exit_code == 4


class Bomb:
    """An object whose unpickling writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    """A pickled object is refused with exit code 4, and its code does not run."""
    torch.save({"schema": 1, "model": Bomb(tmp_path / "boom")}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match="nothing was executed"):
        load_checkpoint(tmp_path / "bomb.pt")
    assert not (tmp_path / "boom").exists()
    torch.load(tmp_path / "bomb.pt", weights_only=False)  # the bomb is real
    assert (tmp_path / "boom").exists()


def test_other_files_are_refused(tmp_path):
    """A zip file, a tensor, a foreign state dict and a missing file say what they are not."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello", "world")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    torch.save({"schema": 99}, tmp_path / "future.pt")
    torch.save({"schema": 1, "config": CONFIG}, tmp_path / "hollow.pt")
    for name, message in [
        ("a.zip", "no lmsm checkpoint"),
        ("tensor.pt", "no schema"),
        ("state.pt", "no schema"),
        ("future.pt", "has schema 99"),
        ("hollow.pt", "it lacks classes"),
        ("none.pt", "no checkpoint at"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)


def test_a_folder_in_the_place_of_a_checkpoint_is_named_as_it_is(tmp_path):
    """What `find` answers can be looked up again, so the folder is not taken for one of a run."""
    (tmp_path / "config.yaml").touch()
    for name, best in (("checkpoint.pt", False), ("best.pt", True)):
        (tmp_path / name).mkdir()
        with pytest.raises(CheckpointError) as error:
            checkpoint.find(tmp_path, best=best)
        assert str(error.value) == f"{tmp_path / name} cannot be read: it is a folder"


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    """When the disk is full in the middle, the previous checkpoint stays and no scrap is left."""
    before = saved.read_bytes()

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskError, match="No space left on device") as error:
        checkpoint.save({"schema": 1}, saved)
    assert error.value.exit_code == 6
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("links", [True, False])
def test_duplicate_is_a_copy_that_outlives_its_source(saved, monkeypatch, links):
    """The copy holds the same bytes after the source is replaced, with and without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    before = saved.read_bytes()
    best = saved.with_name("best.pt")
    checkpoint.duplicate(saved, best)
    checkpoint.save({"schema": 1, "other": 2}, saved)
    assert best.read_bytes() == before
    assert saved.read_bytes() != before


@pytest.mark.parametrize(
    "change",
    [
        {"config": {**CONFIG, "loss": "nosuch"}},
        {"train_counts": []},
        {"model": {}},
        {"classes": 3},
        {"mean": "x"},
    ],
)
def test_unfitting_contents_are_refused(saved, change):
    """A whole file whose parts do not fit each other, or this lmsm, is exit code 4 too."""
    checkpoint.save(torch.load(saved, weights_only=True) | change, saved)
    with pytest.raises(CheckpointError, match=r"does not fit|no loss 'nosuch'") as error:
        load_checkpoint(saved)
    assert error.value.exit_code == 4


def test_what_was_written_badly_never_replaces_what_was_good(saved, monkeypatch):
    """A file that the disk garbled is found before the rename: the old checkpoint stays."""
    before = saved.read_bytes()
    monkeypatch.setattr(torch, "save", lambda state, file: file.write(before[:-100]))
    with pytest.raises(DiskError, match="the one before is kept"):
        checkpoint.save({"schema": 1}, saved)
    assert saved.read_bytes() == before
