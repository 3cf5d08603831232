"""`lmsm predict`: whatever the file, the classes of its pixels, or why not; the others go on."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.image_files import find_images
from lmsm_cli.inference import predict as prediction
from lmsm_cli.inference.predict import predict_files
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.models.affine import Affine
from lmsm_cli.runs import checkpoint
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, noise, plain_state, save, words, write_class_folders

SIZE = 16
CLASSES = ("ant", "bee", "cow", "doe", "elk", "fox")


def trained(root, **values):
    """Train a small net on `root`/data in fp32 for an epoch; return its run folder."""
    flags = {
        "dataset": "folder",
        "data_dir": root / "data",
        "out": root / "runs",
        "model": "paper-2d",
        "imbalance": "none",
        "factor": 1.0,
        "image_size": SIZE,
        "batch_size": 8,
        "epochs": 1,
        "device": "cpu",
        "precision": "fp32",
    }
    config = resolve([Layer.of_preset("digits"), Layer.of_flags(flags | values)]).config
    return start_run(config, SilentDisplay(), with_plots=False).path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on six classes of colour images of 16 x 16 pixels."""
    root = tmp_path_factory.mktemp("predict")
    write_class_folders(root / "data", CLASSES, 10, size=SIZE)
    return trained(root)


def probabilities_by_hand(run, rgb):
    """Return what the loaded classifier says of one RGB picture (H, W, 3), by torch alone."""
    pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return load_checkpoint(run)(pixels).softmax(1)[0].numpy()


def assert_says(one, run, rgb, tolerance=1e-4):
    """Check that a prediction names the classes of this RGB picture, likeliest first."""
    wanted = probabilities_by_hand(run, rgb)
    assert one.error is None
    shares = [share for _, share in one.likeliest]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(wanted.max(), abs=tolerance)
    for name, share in one.likeliest:
        assert share == pytest.approx(wanted[CLASSES.index(name)], abs=tolerance)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A folder of 20 images, 13 plain and 7 odd, and the RGB pixels that each shows."""
    root = tmp_path_factory.mktemp("gallery")
    shows = {}
    for number in range(13):
        pixels = noise(number, (SIZE, SIZE, 3))
        save(root / "plain" / f"{number:02}.png", pixels)
        shows[f"plain/{number:02}.png"] = pixels
    pixels, grey = noise(50, (SIZE, SIZE, 3)), noise(51, (SIZE, SIZE))
    picture = Image.fromarray(pixels)
    wide = Image.fromarray(noise(52, (40, 60, 3)))
    wide.save(root / "other-size.png")
    # by hand: the shorter side to 16, then the middle, at half pixels: 10 px of the 60 on each side
    shows["other-size.png"] = np.asarray(
        wide.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(10, 0, 50, 40))
    )
    Image.fromarray(grey).save(root / "grey.png")
    picture.convert("CMYK").save(root / "cmyk.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / "sixteen-bit.png")
    picture.convert("RGBA").save(root / "alpha.png")
    shows |= {name: np.dstack([grey] * 3) for name in ("grey.png", "sixteen-bit.png")}
    shows |= dict.fromkeys(("cmyk.tif", "alpha.png"), pixels)
    save(root / "cut.png", noise(53, (64, 64, 3)))
    whole = (root / "cut.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "page.jpg").write_text("<html>not found</html>")
    return root, shows


def test_odd_images_get_the_answer_of_their_pixels(run, gallery):
    """Another size, grey, CMYK, 16 bit and alpha are predicted as the same pixels in 8-bit RGB."""
    root, shows = gallery
    found = predict_files(read_trained(run), find_images([root]).images, SilentDisplay(), top=6)
    assert len(found.images) == 20
    assert [str(one.file) for one in found.images] == sorted(str(one.file) for one in found.images)
    good = {str(one.file.relative_to(root)): one for one in found.images if one.error is None}
    assert good.keys() == shows.keys()
    for name, one in good.items():
        assert_says(one, run, shows[name])


def test_broken_files_are_told_and_the_others_go_on(run, gallery):
    """A truncated file and a web page have a reason instead of classes, and each a warning."""
    display = SilentDisplay()
    found = predict_files(read_trained(run), find_images([gallery[0]]).images, display)
    broken = {one.file.name: one for one in found.images if one.error}
    assert broken.keys() == {"cut.png", "page.jpg"}
    assert broken["cut.png"].error == "cannot be read: image file is truncated"
    assert broken["page.jpg"].error == "is not an image that can be read"
    assert all(one.likeliest == () for one in broken.values())
    assert [text.split(" ")[0] for text in display.warned] == [
        str(gallery[0] / name) for name in broken
    ]
    assert found.num_failed == 2


@pytest.mark.parametrize("num_bytes", [1, 3 * SIZE * SIZE * 3, 1 << 30])
def test_answers_do_not_depend_on_the_batches(run, gallery, monkeypatch, num_bytes):
    """One by one, three at once or all together, with broken ones among them: the same answers."""
    wanted = predict_files(read_trained(run), find_images([gallery[0]]).images, SilentDisplay())
    monkeypatch.setattr(prediction, "_BATCH_BYTES", num_bytes)
    held = []
    read = prediction.scores_of
    monkeypatch.setattr(
        prediction,
        "scores_of",
        lambda model, images, runtime: held.append(images.numel()) or read(model, images, runtime),
    )
    found = predict_files(read_trained(run), find_images([gallery[0]]).images, SilentDisplay())
    assert max(held) <= max(num_bytes, SIZE * SIZE * 3)
    for one, other in zip(found.images, wanted.images, strict=True):
        assert (one.file, one.error) == (other.file, other.error)
        assert [name for name, _ in one.likeliest] == [name for name, _ in other.likeliest]
        assert [share for _, share in one.likeliest] == pytest.approx(
            [share for _, share in other.likeliest], abs=1e-5
        )


def test_the_order_is_that_of_the_logits_however_large(run, gallery):
    """Logits a hundred thousand times as large are in the same order, with probabilities of 0."""
    files = find_images([gallery[0] / "plain"]).images
    plain, larger = read_trained(run), read_trained(run)
    larger.model.correct_by(Affine.scaled(torch.full((len(CLASSES),), 1e5)))
    wanted, found = (predict_files(one, files, SilentDisplay(), top=6) for one in (plain, larger))
    assert sum(share == 0 for one in found.images for _, share in one.likeliest) > 3 * len(files)
    for one, other in zip(found.images, wanted.images, strict=True):
        assert [name for name, _ in one.likeliest] == [name for name, _ in other.likeliest]


def test_a_grey_classifier_takes_colour_images(digits_run, tmp_path):
    """A net of the digits (8 x 8, grey) is asked for the luma of a larger colour photograph."""
    pixels = np.repeat(np.repeat(noise(1, (8, 8, 3)), 4, axis=0), 4, axis=1)
    (one,) = predict_files(
        read_trained(digits_run), [save(tmp_path / "x.png", pixels)], SilentDisplay(), top=10
    ).images
    grey = Image.fromarray(pixels).convert("L").resize((8, 8), Image.Resampling.BICUBIC)
    with torch.no_grad():
        wanted = load_checkpoint(digits_run)(torch.from_numpy(np.array(grey))[None, None]).softmax(
            1
        )[0]
    assert dict(one.likeliest) == pytest.approx(
        {str(c): wanted[c].item() for c in range(10)}, abs=1e-4
    )


def test_images_are_normalised_as_the_checkpoint_says(run, tmp_path):
    """Mean and deviation come from the checkpoint, not from the images or a table of data sets."""
    state = plain_state(run / "checkpoint.pt")
    for name, value in (("mean", 0.9), ("std", 0.05)):
        state["model"][name] = torch.full_like(state["model"][name], value)
        state[name] = state["model"][name].flatten().tolist()
    checkpoint.save(state, tmp_path / "bent.pt")
    pixels = noise(7, (SIZE, SIZE, 3))
    file = save(tmp_path / "x.png", pixels)
    (one,) = predict_files(read_trained(tmp_path / "bent.pt"), [file], SilentDisplay()).images
    assert_says(one, tmp_path / "bent.pt", pixels)
    (plain,) = predict_files(read_trained(run), [file], SilentDisplay()).images
    assert plain.likeliest != one.likeliest


def test_a_photograph_is_turned_upright_first(run, tmp_path):
    """EXIF orientation 6 gives the answer of the picture turned by hand."""
    pixels = noise(3, (SIZE, SIZE, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    (one,) = predict_files(read_trained(run), [tmp_path / "x.png"], SilentDisplay()).images
    assert_says(one, run, np.rot90(pixels, -1))


def test_the_table_the_json_and_the_csv_say_the_same(run, gallery, tmp_path, capsys):
    """Three forms of 20 rows; a broken file is a row in each, and the exit code is 1."""
    root = gallery[0]
    assert (
        main(
            [
                "predict",
                str(run),
                str(root),
                *words("--top 2 --json --csv"),
                str(tmp_path / "x.csv"),
            ]
        )
        == 1
    )
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert "2 of 20 images could not be read" in printed.err
    assert document["num_failed"] == 2
    assert document["checkpoint"] == str(run / "checkpoint.pt")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text())))
    assert list(rows[0]) == words("file class_1 probability_1 class_2 probability_2 error")
    assert main(["predict", str(run), str(root), "--top", "2"]) == 1
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    for image, row in zip(document["images"], rows, strict=True):
        assert row["file"] == image["file"]
        assert row["error"] == (image["error"] or "")
        pairs = [(p["class"], p["probability"]) for p in image["predictions"]]
        if image["error"]:
            assert pairs == []
            assert row["class_1"] == row["probability_2"] == ""
            assert [image["file"], "-", "-", "-", "-", *image["error"].split()] in table
        else:
            assert [(row[f"class_{k}"], float(row[f"probability_{k}"])) for k in (1, 2)] == [
                (name, pytest.approx(share, abs=1e-6)) for name, share in pairs
            ]
            assert [
                image["file"],
                *(cell for name, share in pairs for cell in (name, f"{100 * share:.1f}")),
            ] in table


def test_csv_goes_to_stdout_alone(run, gallery, capsys):
    """`--csv -` prints the CSV and nothing else; exit code 0 where all could be read."""
    assert main(["predict", str(run), str(gallery[0] / "plain"), "--top", "99", "--csv", "-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 13
    assert {row[f"class_{k}"] for k in range(1, 7) for row in rows[:1]} == set(CLASSES)
    assert "class_7" not in rows[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "nowhere.png"], 3, "there is no image or folder nowhere.png"),
        (["RUN", "x.png", "nowhere"], 3, "there is no image or folder nowhere"),
        (["RUN", "empty"], 3, "the folder empty holds no images"),
        (["RUN", "x.png", "--csv", "nowhere/x.csv"], 6, "there is no folder nowhere"),
        (["RUN", "x.png", "--csv", "empty"], 6, "empty: it is a folder"),
        (["RUN", "x.png", "--json", "--csv", "-"], 2, "both print on stdout"),
        (["RUN", "x.png", "--device", "cuda:99"], 2, "device is 'cuda:99'"),
        (["RUN", "x.png", "--top", "0"], 2, "--top"),
        (["RUN"], 2, "Missing argument 'IMAGE'"),
        (["RUN", "x.png", "--top", "0"], 2, "--top is 0: give at least 1"),
        (["x.png", "x.png"], 4, "x.png is damaged or no checkpoint"),
    ],
)
def test_mistakes_are_told_before_the_work(
    run, tmp_path, monkeypatch, capsys, arguments, code, message
):
    """A wrong path, place, device or checkpoint has its exit code; nothing is written."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x.png", noise(0))
    (tmp_path / "empty").mkdir()
    assert main(["predict", *(str(run) if word == "RUN" else word for word in arguments)]) == code
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.replace("│", " ").split())
    assert printed.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "x.png"]


def test_odd_names_are_shown_and_cannot_style_the_terminal(run, tmp_path, capsys):
    """Control characters of file names are spelled in the table, the CSV and the messages."""
    save(tmp_path / "a\x1b[31m\n,[bold].png", noise(0))
    (tmp_path / "b\x1b.png").write_bytes(b"")
    for flags in ([], ["--csv", "-"]):
        assert main(["predict", str(run), str(tmp_path), *flags]) == 1
        printed = capsys.readouterr()
        assert r"a\x1b[31m\n,[bold].png" in printed.out
        assert r"b\x1b.png is not an image: it is empty" in printed.err
        assert "\x1b" not in printed.out + printed.err


@pytest.mark.realdata
def test_real_cifar10_images_are_predicted_as_their_pixels(real_data, tmp_path):
    """Real files of CIFAR-10 get the answer that the loaded classifier gives of PIL's pixels."""
    for name in ("airplane", "automobile"):
        for part in ("train", "test"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for file in sorted((real_data / "cifar10" / part / name).iterdir())[:30]:
                (tmp_path / "data" / part / name / file.name).write_bytes(file.read_bytes())
    path = trained(tmp_path, image_size=32)
    model = load_checkpoint(path)
    found = predict_files(
        read_trained(path), find_images([tmp_path / "data" / "test"]).images, SilentDisplay()
    )
    assert len(found.images) == 60
    for one in found.images:
        pixels = torch.from_numpy(np.array(Image.open(one.file))).permute(2, 0, 1)[None]
        with torch.no_grad():
            wanted = model(pixels).softmax(1)[0]
        assert dict(one.likeliest) == pytest.approx(
            {name: wanted[c].item() for c, name in enumerate(model.classes)}, abs=1e-4
        )


def test_files_that_are_left_out_are_told(run, tmp_path, capsys):
    """A folder's files without an image's name are counted and named; none, nothing is said."""
    save(tmp_path / "x.png", noise(1, (SIZE, SIZE, 3)))
    for number in range(6):
        (tmp_path / f"n{number}.txt").touch()
    assert main(["predict", str(run), str(tmp_path / "x.png"), str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"{tmp_path}: skipped 6 files not named as images: "
        "6 .txt (n0.txt, n1.txt, n2.txt and 3 more)" in said
    )
    assert main(["predict", str(run), str(tmp_path / "x.png")]) == 0
    assert "skipped" not in capsys.readouterr().err
