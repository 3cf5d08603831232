"""The guides of docs/: messages that a page explains are shown, programs that it has run."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.data.image_files import read_image
from lmsm_cli.inference.export import export_checkpoint
from tests.blocks import fenced
from tests.conftest import SilentDisplay, noise, save
from tests.test_data_command import fill, make_messy
from tests.test_export import write_checkpoint

DOCS = Path(__file__).parent.parent / "docs"
OWN_IMAGES, AFTER_TRAINING = (
    (DOCS / name).read_text(encoding="utf-8") for name in ("own-images.md", "after-training.md")
)
SMALL = {"ant": 4, "bee": 3}


def explained():
    """Return the messages of the table on messy folders."""
    table = OWN_IMAGES.partition("## When the folder is messy\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.M)


def pattern_of(message):
    """Return the pattern of a message: `...` stands for names, N for a number and its noun."""
    pieces = re.split(r"(\.\.\.|\bN \w+|\bstands\b)", message)
    kinds = {"...": ".+?", "stands": "stands?"}
    return "".join(
        rf"[\d,]+ {piece[2:]}s?" if piece.startswith("N ") else kinds.get(piece, re.escape(piece))
        for piece in pieces
    )


def parts(root, **classes):
    """Write a folder of class folders for each part, a different one each."""
    for seed, (part, counts) in enumerate(classes.items()):
        fill(root / part, counts, seed=50 + seed)


def messy_folders():
    """Yield the words of `lmsm data` for folders with each fault, which the working folder gets."""
    here = Path.cwd()
    messy = make_messy(here)
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    for name, side in (("ant/ramp.png", 64), ("bee/ramp.png", 32)):
        Image.fromarray(ramp).resize((side, side), Image.Resampling.BICUBIC).save(messy / name)
    yield "messy", "--batch-size", "8"
    save(here / "flat" / "a.png", noise(1))
    yield ("flat",)
    fill(here / "one", {"ant": 3})
    yield ("one",)
    parts(here / "untested", train=SMALL)
    yield ("untested",)
    parts(here / "twice", train=SMALL, test=SMALL, testing=SMALL)
    yield ("twice",)
    parts(here / "three", train=SMALL, test=SMALL | {"wasp": 2}, val={"Ant": 2})
    (here / "three" / "notes.txt").touch()
    yield ("three",)
    fill(here / "alone", {"ant": 3, "val": 3})
    yield ("alone",)
    fill(here / "older" / "runs" / "one", {"plots": 3})
    fill(here / "older", SMALL)
    for name in ("config.yaml", "status.json"):
        (here / "older" / "runs" / "one" / name).write_text("{}")
    yield ("older",)
    fill(here / "large", {"ant": 20, "bee": 20}, seed=60, shape=(24, 32, 3))
    yield "large", "--batch-size", "500"
    yield "large", "--group-pattern", "of(none)"
    yield "large", "--group-pattern", "^(.*)/"
    fill(here / "broken", {"ant": 9, "bee": 9})
    for file in (here / "broken" / "bee").iterdir():
        file.write_bytes(b"")
    yield ("broken",)
    fill(here / "few", {"ant": 20, "bee": 6})
    yield ("few",)
    fill(here / "dark", {"ant": 6, "bee": 6}, seed=80)
    for number, file in enumerate(sorted((here / "dark").rglob("*.png"))):
        # as a camera of twelve bits has them
        Image.fromarray(noise(number, (8, 8)).astype(np.uint16) * 16).save(file)
    yield ("dark",)
    parts(here / "shared", train=SMALL, test=SMALL)
    yield "shared", "--group-pattern", r"(\d+)[.]png"
    yield from lists(here / "listed")


def lists(root):
    """Yield the words for lists with each fault."""
    fill(root, {"ant": 6, "bee": 6}, seed=70)
    save(root.parent / "far.png", noise(71))
    rows = [f"{name}/{n:03}.png,{name},train" for name in ("ant", "bee") for n in range(6)]
    rows += ["ant/gone.png,ant,train", "../far.png,ant,train"]
    rows += ["ant/000.png,bee,train", "ant/001.png,ant,test"]
    (root / "faulty.csv").write_text("\n".join(["path,label,split", *rows]))
    yield (root / "faulty.csv",)
    (root / "headless.csv").write_text("\n".join(["path,thing,split", *rows]))
    yield (root / "headless.csv",)
    numbers = [row.replace(",ant,", ",0,").replace(",bee,", ",1,") for row in rows[:12]]
    (root / "numbers.csv").write_text("\n".join(["path,label,split", *numbers]))
    (root / "names.txt").write_text("ant\n")
    yield root / "numbers.csv", "--class-names", root / "names.txt"
    subjects = [row.replace(",train", f",P{number}") for number, row in enumerate(rows[:12])]
    subjects.append("ant/000.png,ant,P9")
    (root / "subjects.csv").write_text("\n".join(["path,label,subject", *subjects]))
    yield root / "subjects.csv", "--group-column", "subject"
    sparse = "\n".join(numbers).replace(",0,", ",2,").replace(",1,", ",10,")
    (root / "sparse.csv").write_text(f"path,label,split\n{sparse}\n")
    yield (root / "sparse.csv",)


def test_the_messages_of_messy_folders_are_those_that_are_shown(tmp_path, monkeypatch, capsys):
    """Each row of the table is what `lmsm data` or `train` says of images with that fault."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    said = []

    def types(*words):
        main([*map(str, words), "--image-size", "8", "--json"])
        printed = capsys.readouterr()
        said.extend(" ".join(text.split()) for text in (printed.out, printed.err))

    def check(*words):
        types("data", *words)

    for words in messy_folders():
        check(*words)
    types("train", "--dataset", "few", "--epochs", "1", "--model", "paper-mnist")
    types("train", "--dataset", "few", "--out", "few/runs")
    rows = "".join(f"{path},{path.parent.name}\n" for path in sorted(Path("few").glob("*/*.png")))
    Path("few.csv").write_text(f"path,label\n{rows}")
    types("train", "--dataset", "few.csv", "--out", "few/ant")
    types("train", "--dataset", "broken", "--skip-unreadable")
    save(tmp_path / "large" / "ant" / "poster.png", noise(80, (100, 100, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which lmsm sets
    monkeypatch.setenv("LMSM_MAX_MEGAPIXELS", "0.005")
    check("large")
    messages = explained()
    assert len(messages) > 30
    whole = "\n".join(said)
    assert [one for one in messages if not re.search(pattern_of(one), whole)] == []


@pytest.fixture
def page_python(tmp_path, monkeypatch):
    """Return a function that runs the page's program that names a file, in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def run(file):
        (program,) = [
            block
            for language, block in fenced(AFTER_TRAINING)
            if language == "python" and f'"{file}"' in block
        ]
        exec(compile(program, "after-training.md", "exec"), {})

    return run


def test_the_program_for_onnx_answers_as_the_checkpoint(page_python, tmp_path, capsys):
    """It names the class of a colour picture of another shape, with its probability."""
    file = write_checkpoint(tmp_path, loss="cosface:scale=20", side=8)
    export_checkpoint(file, SilentDisplay(), num_images=4)
    net = load_checkpoint(file)
    for seed in range(3):
        picture = save(tmp_path / "new.png", noise(seed, (20, 30, 3)))
        page_python("model.onnx")
        pixels = torch.tensor(read_image(picture, size=8, channels=3)).permute(2, 0, 1)
        with torch.no_grad():
            shares = net(pixels[None]).softmax(dim=1)[0]
        name, share = capsys.readouterr().out.rstrip("%\n").split(": ")
        assert name == net.classes[int(shares.argmax())]
        assert float(share) == pytest.approx(100 * shares.max().item(), abs=0.1)


def test_the_program_for_torch_names_a_class(page_python, tmp_path, capsys):
    """It finds the names of the classes in the file, and gives the class of the checkpoint."""
    file = write_checkpoint(tmp_path, channels=1, side=8)
    export_checkpoint(file, SilentDisplay(), form="torch", num_images=4)
    page_python("model.pt2")
    net = load_checkpoint(file)
    with torch.no_grad():
        best = int(net(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).argmax())
    assert capsys.readouterr().out == f"{net.classes[best]}\n"
