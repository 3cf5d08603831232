"""`lmsm schedule`: what it foretells is what a run does; its table, JSON and picture."""

import io

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console
from torchvision.datasets import MNIST, FashionMNIST

from lmsm_cli.commands.app import app, main
from lmsm_cli.config import RUNTIME_KEYS, Config
from lmsm_cli.config.keys import LIST_KEYS
from lmsm_cli.data import sources
from lmsm_cli.data.class_names import CLASS_NAMES
from lmsm_cli.data.sources import SOURCES
from lmsm_cli.losses.registry import HEADS, build_head
from lmsm_cli.reports.tables import schedule_table
from lmsm_cli.runs.record import read_run
from lmsm_cli.training import run
from tests.conftest import CIFAR10_CLASSES, printed_json, words

LONG_TAIL = ["--preset", "lsoftmax-resnet18"]


def plan(capsys, *arguments):
    """Return the JSON document of `lmsm schedule`."""
    return printed_json(capsys, "schedule", *arguments)


def cells(capsys, *arguments):
    """Return the words of each line of `lmsm schedule` that starts with an epoch."""
    assert main(["schedule", *map(str, arguments)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {
        int(words[0]): words[1:]
        for words in lines
        if words and words[0].isdecimal() and "classes" not in words
    }


def test_lambda_is_the_authors_power_law_down_to_the_floor_of_a_long_tail(capsys):
    """Margin 2: 1000 (1 + 0.36 p)^-45 until lambda 1, an effective margin of 1.5, is reached."""
    document = plan(capsys, *LONG_TAIL)
    assert document["loss"] == "lsoftmax:margin=2,lambda_min=1,weight_norm=shared"
    rows = document["epochs"]
    assert [row["epoch"] for row in rows] == list(range(1, 11))
    # by hand at p = 0.1: ln(1000) - 45 ln(1.036) = 6.90776 - 45 * 0.0353671 = 5.31624
    assert rows[0]["lambda"] == pytest.approx(203.616, abs=0.005)
    assert rows[0]["effective_margin"] == pytest.approx(1 + 1 / 204.616, abs=1e-7)
    # by hand at p = 0.4: 6.90776 - 45 ln(1.144) = 6.90776 - 45 * 0.1345309 = 0.85387
    assert rows[3]["lambda"] == pytest.approx(2.3487, abs=0.0005)
    assert [row["lambda"] for row in rows[4:]] == [1] * 6
    assert [row["effective_margin"] for row in rows[4:]] == [1.5] * 6


@pytest.mark.parametrize("margin", [1, 2, 4])
@pytest.mark.parametrize("epochs", [1, 7])
def test_lambda_and_margin_are_the_heads_own(capsys, margin, epochs):
    """Every row is what the head of that spec says at the end of the epoch."""
    document = plan(capsys, *LONG_TAIL, "--margin", margin, "--epochs", epochs)
    head = build_head(document["loss"], 2, 10)
    assert len(document["epochs"]) == epochs
    for row in document["epochs"]:
        assert row["lambda"] == head.lambda_at(row["epoch"] / epochs)
        assert row["effective_margin"] == head.effective_margin_at(row["epoch"] / epochs)


def test_learning_rate_is_step_lr(capsys):
    """StepLR 2 x 0.9 from 0.001: two epochs each of 0.001, 0.0009, 0.00081, ..."""
    rows = plan(capsys, *LONG_TAIL, "--epochs", 6)["epochs"]
    assert [row["lr"] for row in rows] == pytest.approx(
        [0.001, 0.001, 0.0009, 0.0009, 0.00081, 0.00081]
    )


def test_a_run_does_what_was_foretold(tmp_path, capsys):
    """Spec, counts, lr, lambda and effective margin of a real run are those of its plan."""
    flags = ["--preset", "digits", "--loss", "lsoftmax:margin=3", "--epochs", "3"]
    document = plan(capsys, *flags)
    assert main(["train", *flags, "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = read_run(next(tmp_path.iterdir()))
    assert record.config["loss"] == document["loss"]
    assert [row.train_count for row in record.scores.per_class] == document["class_counts"]
    for key in ("epoch", "lr", "lambda", "effective_margin"):
        assert [row[key] for row in record.metrics] == [row[key] for row in document["epochs"]]


# Two runs on a few digits; a schedule follows from all choices together, so each is tried with a
# loss whose margin arrives, on a long tail.
SHORT = words(
    "--dataset digits --imbalance exp --factor 0.1 --loss lsoftmax --model paper-mnist --lr 0.01 "
    "--epochs 2 --batch-size 32 --device cpu"
)
# A value of each choice that is none of the defaults, with what must go with it.
TRIED = {
    "imbalance": "--imbalance step",
    "factor": "--factor 0.6",  # no long tail
    "images_per_class": "--images-per-class 60",
    "test_images_per_class": "--test-images-per-class 5",
    "test_from": "--test-from training",
    "test_share": "--test-from training --test-share 0.4",
    # 119 and 59 images are a long tail, of which each fold learns 80 and 40, which are none
    "folds": "--test-from training --folds 4 --fold 0 --factor 0.5",
    "fold": "--test-from training --folds 4 --fold 3 --factor 0.49",
    "validation": "--validation 0",
    "split_seed": "--split-seed 7",
    "augment": "--augment crop-flip",
    "mixup": "--mixup 0.2",
    "cutmix": "--cutmix 1",
    "neck": "--neck prelu",
    "head_bias": "--loss vs --head-bias",
    "head_init": "--head-init unit",
    "pretrained": "--pretrained RUN",
    "freeze": "--pretrained RUN --freeze features --loss marc",
    "class_margins": "--class-margins 3=3",
    "label_smoothing": "--label-smoothing 0.1",
    "reweight": "--reweight inverse",
    "reweight_beta": "--reweight effective --reweight-beta 0.9",
    "class_weights": "--class-weights 3=3",
    "sampling": "--sampling balanced",
    "rebalance_from": "--reweight inverse --rebalance-from 2",
    "epochs": "--epochs 1",
    "batch_size": "--batch-size 16",
    "optimizer": "--optimizer adamw",
    "lr": "--lr 0.02",
    "backbone_lr": "--backbone-lr 0.001",
    "accumulate": "--accumulate 2",
    "ema": "--ema 0.9",
    "patience": "--patience 1 --loss lsoftmax:anneal_end=0.5",
    "momentum": "--optimizer sgd --momentum 0.5",
    "weight_decay": "--weight-decay 0.01",
    "head_weight_decay": "--head-weight-decay 0.01",
    "sam": "--sam 0.05",
    "schedule": "--schedule constant",
    "step_size": "--schedule step --step-size 1",
    "milestones": "--schedule multistep --milestones 1",
    "gamma": "--schedule step --step-size 1 --gamma 0.3",
    "warmup": "--warmup 1",
    "best_tolerance": "--best-tolerance 0.1",
    "seed": "--seed 7",
}
# Of the user's own images, of which nothing is read; where and with which bits a run computes; what
# trains nothing; and what every row above has.
UNTRIED = {
    *LIST_KEYS,
    *("data_dir", "image_list", "validation_list", "test_list", "class_names", "group_pattern"),
    *("image_size", "resize", "crop_from", "follow_links", "skip_unreadable"),
    *RUNTIME_KEYS,
    *("precision", "post_hoc", "dataset", "model", "loss"),
}


def test_each_choice_is_tried_or_has_a_reason_not_to_be():
    """A new one gets its row."""
    assert TRIED.keys() | UNTRIED == set(Config.model_fields)
    assert not TRIED.keys() & UNTRIED


def rows_of(epochs):
    """Return what a schedule says, of rows of metrics.jsonl or of a plan."""
    keys = ("epoch", "lr", "lambda", "effective_margin")
    return [[row[key] for key in keys] for row in epochs]


@pytest.mark.slow
@pytest.mark.parametrize("key", TRIED)
def test_each_choice_is_in_the_plan_as_in_the_run(tmp_path, monkeypatch, capsys, digits_run, key):
    """Spec, counts and every epoch: of the flags, and of the run's own config.yaml."""
    monkeypatch.setattr(run, "draw_plots", lambda *_: None)
    flags = [*SHORT, *TRIED[key].replace("RUN", str(digits_run)).split()]
    document = plan(capsys, *flags)
    assert main(["train", *flags, "--out", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    record = read_run(folder)
    capsys.readouterr()
    assert rows_of(record.metrics) == rows_of(document["epochs"][: len(record.metrics)])
    assert len(record.metrics) == len(document["epochs"]) or key == "patience"
    assert record.config["loss"] == document["loss"]
    counts = [row.train_count for row in record.scores.per_class]
    # which folds get the images that cannot be shared evenly, the images themselves decide
    off = 1 if key in ("folds", "fold") else 0
    assert counts == pytest.approx(document["class_counts"], abs=off)
    again = plan(capsys, "--config", folder / "config.yaml")
    assert again == document


def test_margins_of_single_classes_are_in_the_plan(capsys):
    """By hand: 3 is the largest of all; on a long tail it may take the place of the largest."""

    def last(*flags):
        return plan(capsys, "--epochs", 2, *flags)["epochs"][-1]["effective_margin"]

    plain = ("--dataset", "digits", "--loss", "lsoftmax:margin=2,anneal=none")
    assert last(*plain) == pytest.approx(2)
    assert last(*plain, "--class-margins", "7=3") == pytest.approx(3)
    tail = (*plain[:2], "--imbalance", "exp", "--factor", "0.1")
    tail += ("--loss", "lsoftmax:margin=auto,margin_max=4,anneal=none")
    assert last(*tail) == pytest.approx(4)
    assert last(*tail, "--class-margins", "9=1") < 3.9
    own = ("--dataset", "folder", *plain[2:])
    assert last(*own, "--class-margins", "frog=1,owl=1.5") == pytest.approx(2)
    assert last(*own, "--class-margins", "frog=1,owl=3") == pytest.approx(3)
    cifar = ("--dataset", "imbalanced", *plain[2:], "--class-margins")
    assert last(*cifar, "frog=3") == pytest.approx(3)
    assert main(["schedule", *cifar, "forg=3"]) == 2
    assert "there is no class 'forg' (did you mean 'frog'?)" in capsys.readouterr().err
    assert main(["schedule", *plain, "--class-margins", "7=3"]) == 0
    assert "the largest margin of all is shown" in capsys.readouterr().out


def test_what_trains_nothing_has_no_schedule(capsys, digits_run):
    """It is said, in the place of epochs that are none."""
    flags = ["--pretrained", str(digits_run), "--freeze", "features", "--post-hoc", "ncm"]
    assert main(["schedule", "--dataset", "digits", *flags]) == 2
    assert "post_hoc 'ncm' trains nothing" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", CLASS_NAMES)
def test_the_classes_of_published_data_are_known(dataset):
    """As many as there are counts of images; those of torchvision, of scikit-learn, by hand."""
    names = CLASS_NAMES[dataset]
    assert len(names) == len(set(names)) == len(SOURCES[dataset].train_counts)
    known = {
        "cifar10": CIFAR10_CLASSES,
        "fashion-mnist": tuple(FashionMNIST.classes),
        "mnist": tuple(text[0] for text in MNIST.classes),
    }
    assert names == known.get(dataset, names)
    if dataset == "digits":
        assert sources.load("digits", None, "train").classes == names
    if dataset == "cifar100":
        assert [*names] == sorted(names)  # so CIFAR-100 numbers them


def test_class_counts_are_those_of_the_published_data(capsys):
    """Ten classes of 5,000 images, exp 0.1, a tenth held out: 5000 * 0.1^(c / 9) * 0.9."""
    counts = plan(capsys, *LONG_TAIL)["class_counts"]
    assert counts[0] == 4500
    assert counts[-1] == 450
    assert counts == pytest.approx([4500 * 0.1 ** (c / 9) for c in range(10)], abs=1.5)
    assert main(["schedule", *LONG_TAIL]) == 0
    assert "10 classes of 450 to 4500 training images" in capsys.readouterr().out
    assert main(["schedule", "--preset", "balanced-resnet18"]) == 0
    assert "10 classes of 4500 training images" in capsys.readouterr().out


def test_softmax_has_no_lambda(capsys):
    """A loss without annealing has null and `-`, and no bar."""
    document = plan(capsys, "--loss", "softmax", "--epochs", 2)
    assert document["loss"] == "softmax"
    assert [(row["lambda"], row["effective_margin"]) for row in document["epochs"]] == [
        (None, None)
    ] * 2
    assert cells(capsys, "--loss", "softmax", "--epochs", 2) == {
        1: ["0.001", "-", "-"],
        2: ["0.0005", "-", "-"],  # cosine
    }


def test_folder_is_shown_as_balanced_data(tmp_path, capsys):
    """Without published counts nothing is read: the balanced defaults are shown, and it says so."""
    flags = ["--dataset", "folder", "--data-dir", tmp_path / "nowhere", "--loss", "lsoftmax"]
    document = plan(capsys, *flags)
    assert document["class_counts"] is None
    assert document["loss"] == "lsoftmax:margin=2,lambda_min=0,weight_norm=free"
    assert main(["schedule", *map(str, flags)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("defaults of balanced data" in line for line in lines) == 1


@pytest.mark.parametrize("loss", HEADS)
@pytest.mark.parametrize("dataset", ["imbalanced", "folder"])
def test_every_loss_has_a_plan(capsys, dataset, loss):
    """Losses that ask for class counts have a plan too where only the data knows them."""
    document = plan(capsys, "--dataset", dataset, "--loss", loss, "--epochs", 2)
    assert document["loss"].split(":")[0] == loss
    assert len(document["epochs"]) == 2


def test_the_bar_shows_the_share_of_the_largest_margin(capsys):
    """The bar runs from margin 1, no margin, to the largest: at 1.299 of 1.5 it is 60% long."""
    rows = cells(capsys, *LONG_TAIL)
    assert rows[4][:3] == ["0.0009", "2.349", "1.299"]
    assert len(rows[1]) == 3
    assert len(rows[4][3]) / len(rows[10][3]) == pytest.approx(0.299 / 0.5, abs=0.03)
    assert all(len(words) == 3 for words in cells(capsys, *LONG_TAIL, "--margin", 1).values())


@pytest.mark.parametrize("width", [45, 60, 80, 4000])
def test_the_bar_keeps_its_shape_on_a_narrow_terminal(width):
    """A bar of half the margin is half as long as that of the whole, never cut at an edge."""
    rows = [
        {"epoch": n, "lr": 0.1, "lambda": 1.0, "effective_margin": m}
        for n, m in ((1, 1.5), (2, 2.0))
    ]
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(schedule_table(rows))
    half, whole = (
        line.count("━") + line.count("╸") / 2
        for line in text.getvalue().splitlines()
        if "━" in line
    )
    assert whole > 2
    assert half == pytest.approx(whole / 2, abs=0.5)
    assert "…" not in text.getvalue()


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        (20, list(range(1, 21))),
        (21, [1, *range(2, 21, 2), 21]),
        (200, [1, *range(10, 201, 10)]),
        (1000, [1, *range(50, 1001, 50)]),
    ],
)
def test_many_epochs_make_one_screen(capsys, epochs, shown):
    """First, last and evenly spaced epochs are shown; the table says so, and --json gives all."""
    assert list(cells(capsys, *LONG_TAIL, "--epochs", epochs)) == shown
    assert main(["schedule", *LONG_TAIL, "--epochs", str(epochs)]) == 0
    note = f"shown: {len(shown)} of {epochs} epochs; --json gives all"
    assert (note in capsys.readouterr().out) == (len(shown) < epochs)
    assert len(plan(capsys, *LONG_TAIL, "--epochs", epochs)["epochs"]) == epochs


def pixels(path):
    """Return the picture as grey values, after Pillow has read all of it."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


@pytest.mark.parametrize("epochs", [1, 10, 200])
@pytest.mark.parametrize(
    "loss",
    words(
        "softmax lsoftmax lsoftmax:anneal=none lsoftmax:margin=1 "
        "lsoftmax:lambda_start=5,lambda_min=5 lsoftmax:power=400"
    ),
)
def test_plot_is_a_picture_with_a_panel_for_each_schedule(tmp_path, capsys, loss, epochs):
    """--plot draws whatever the loss, without a warning: three panels, or one without lambda."""
    file = tmp_path / "new" / "plan.png"
    assert main(["schedule", "--loss", loss, "--epochs", str(epochs), "--plot", str(file)]) == 0
    assert "learning rate" in capsys.readouterr().out
    height, width = pixels(file).shape
    assert height > 300
    assert round(width / height) == (1 if loss == "softmax" else 4)
    assert len(np.unique(pixels(file))) > 10


def test_the_plot_has_lambda_on_a_log_axis(tmp_path, monkeypatch):
    """Lambda's axis is a log axis, its curve starts at 1000, and the margin ends at 1.5."""
    figures = []
    monkeypatch.setattr(
        "lmsm_cli.reports.plots.save_figure", lambda figure, *_: figures.append(figure)
    )
    assert main(["schedule", *LONG_TAIL, "--plot", str(tmp_path / "plan.png")]) == 0
    rate, lam, margin = figures[0].axes
    assert [axes.get_title() for axes in figures[0].axes] == [
        "learning rate",
        "lambda",
        "effective margin",
    ]
    assert lam.get_yscale() == "log"
    assert lam.lines[0].get_xydata()[0] == pytest.approx((0, 1000))
    assert margin.lines[0].get_xydata()[-1] == pytest.approx((10, 1.5))
    assert rate.patches[0].get_data().values == pytest.approx(
        [0.001 * 0.9 ** (n // 2) for n in range(10)]
    )


@pytest.mark.parametrize(
    ("name", "start"), [("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("a.b.PNG", b"\x89PNG")]
)
def test_plot_takes_three_formats(tmp_path, name, start):
    """The file has the very name that was asked for, and the format of its ending."""
    assert main(["schedule", *LONG_TAIL, "--plot", str(tmp_path / name)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.pdf", "a.svg"])
def test_a_plot_replaces_no_picture_that_others_drew(tmp_path, capsys, name):
    """Not even one by the library that lmsm draws with: photos of sounds are made so."""
    from matplotlib.figure import Figure

    words = ["schedule", *LONG_TAIL, "--plot", str(tmp_path / name)]
    Figure().savefig(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert main(words) == 2
    assert "a picture is there that lmsm did not draw" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before
    (tmp_path / name).unlink()
    for _ in range(2):
        assert main(words) == 0


def test_every_picture_says_who_drew_it(tmp_path):
    """As PNG has it, under Software: a sheet of images too, which another library writes."""
    from PIL import Image

    from lmsm_cli.reports.sheets import draw_mistakes

    assert main(["schedule", *LONG_TAIL, "--plot", str(tmp_path / "plan.png")]) == 0
    draw_mistakes([], tmp_path / "sheet.png")
    for name in ("plan.png", "sheet.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.info["Software"] == "drawn by lmsm"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--plot", "plan.jpg"], 2, "--plot is 'plan.jpg'"),
        (["--plot", "plan"], 2, ".png, .pdf, .svg"),
        (["--plot", "text.pt/plan.png"], 6, "choose another with --plot"),
        (["--plot", "folder.png"], 6, "cannot write folder.png: it is a folder"),
        (["--loss", "lsoftmx"], 2, "did you mean 'lsoftmax'?"),
        (["--preset", "digit"], 2, "did you mean 'digits'?"),
        (["--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["--epochs", "0", "--lr", "nan"], 2, "2 problems"),
        (["--dataset", "imbalanced", "--factor", "0.0001"], 2, "would keep 0 of 5000"),
        (["--dataset", "digits", "--batch-size", "5000"], 2, "training images are left"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    tmp_path, monkeypatch, capsys, arguments, code, message
):
    """A mistake has its exit code, one message, no traceback, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    assert main(["schedule", *arguments]) == code
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "text.pt"]


def test_it_takes_the_flags_of_train():
    """Every choice of `lmsm train` is one of `lmsm schedule`, with the same words of help."""
    commands = typer.main.get_command(app).commands
    train, schedule = (
        {one.opts[0]: one.help for one in commands[name].params} for name in ("train", "schedule")
    )
    train = {
        flag: text
        for flag, text in train.items()
        if flag not in ("--show-config", "--dry-run", "--seeds", "--quiet", "--verbose", "--json")
    }
    del train["--resume"], train["--import"]  # choices of a run folder, not of a config
    assert train.items() <= schedule.items()
    assert {"--preset", "--config", "--margin", "--weight-decay"} <= train.keys()


@pytest.mark.parametrize(("margin", "told"), [("auto", True), ("4", False)])
def test_whose_margin_is_shown_is_told(capsys, margin, told):
    """Where each class has its own margin, the column is the rarest's."""
    choices = ["--preset", "digits", "--epochs", "2", "--loss", f"lsoftmax:margin={margin}"]
    assert main(["schedule", *choices]) == 0
    assert ("that of the rarest class" in capsys.readouterr().out) is told


@pytest.mark.parametrize(
    ("file", "way_out"), [("config.yaml", "run/config.yaml"), ("notes.txt", "config.yaml of a run")]
)
def test_a_folder_is_no_config_file(tmp_path, capsys, file, way_out):
    """A run folder in its place is told with the file in it; any other folder with what to give."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / file).write_text("epochs: 3\n")
    assert main(["schedule", "--config", str(tmp_path / "run")]) == 2
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "run is a folder: give" in text
    assert text.endswith(way_out)
