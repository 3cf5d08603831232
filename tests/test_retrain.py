"""`lmsm retrain`: other last layers on finished runs, as ordinary runs that are compared."""

import json
import math
import shutil

import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.config.yaml import dump_yaml
from lmsm_cli.errors import LmsmError
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.first_stage import first_stage_of, unlike
from lmsm_cli.runs.images import read_images_record
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.sweeps.second_stage import _PLAIN, choices_of
from tests.conftest import noise, plain_state, save, words

DIGITS = ["--dataset", "digits", "--imbalance", "exp", "--factor", "0.1", "--threads", "1"]
DIGITS += ["--device", "cpu", "--precision", "fp32", "--layout", "channels-last", "--quiet"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return a folder with a run of two epochs, with augmentation and a schedule of its own."""
    out = tmp_path_factory.mktemp("first")
    more = ["--augment", "crop-flip", "--warmup", "1", "--head-bias", "--mixup", "0.2"]
    assert main(["train", *DIGITS, *more, "--epochs", "2", "--out", str(out)]) == 0
    return out


def retrain(first, out, *more):
    """Retrain two epochs; return the exit code."""
    place = ["--out", str(out), "--device", "cpu", "--threads", "1", "--quiet"]
    return main(["retrain", str(first), "--epochs", "2", *place, *more])


def test_heads_are_runs_that_are_compared_used_and_longer_trained(first, tmp_path, capsys):
    """Each head is an ordinary run on the same net; the same command again does nothing new."""
    heads = ["--head", "crt", "--head", "lws", "--head", "lsoftmax:margin=2"]
    assert retrain(first, tmp_path, *heads) == 0
    printed = capsys.readouterr().out
    assert "3 run folders" in printed
    assert "best on validation images: " in printed
    runs = find_runs([tmp_path])
    (start,) = find_runs([first])
    net = checkpoint.load(start / "checkpoint.pt").model
    for run in runs:
        state = checkpoint.load(run / "checkpoint.pt").model
        assert all(torch.equal(state[k], v) for k, v in net.items() if not k.startswith("head."))
    configs = [read_run(run).config for run in runs]
    environments = [read_run(run).environment for run in runs]
    told = {(one.first_stage, one.first_stage_steps) for one in environments}
    assert told == {first_stage_of(Config.model_validate(configs[0]))}
    assert {(one["loss"].partition(":")[0], one["sampling"]) for one in configs} == {
        ("softmax", "balanced"),
        ("lws", "balanced"),
        ("lsoftmax", "shuffle"),
    }
    assert {(one["augment"], one["mixup"], one["warmup"]) for one in configs} == {("none", 0, 0)}
    assert {one["head_bias"] for one in configs if one["loss"].startswith("lso")} == {False}
    assert {one["head_bias"] for one in configs if not one["loss"].startswith("lso")} == {True}
    assert retrain(first, tmp_path, *heads, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["groups"]) == 3
    assert find_runs([tmp_path]) == runs
    for run in runs:
        assert main(["resume", str(run), "--epochs", "3", "--quiet"]) == 0
        assert main(["eval", str(run), "--json", "--quiet"]) == 0
        *_, scored = capsys.readouterr().out.strip().split("\n{")
        found = json.loads("{" + scored.removeprefix("{"))
        assert found["accuracy"] == read_run(run).scores.accuracy


def test_nets_are_told_by_what_they_were_trained_with(first, tmp_path):
    """Seed and folder leave no trace; a loss written otherwise neither; all else does."""
    (start,) = find_runs([first])
    state = plain_state(start / "checkpoint.pt")

    def told(freeze="features", **changes):
        """Return what a run says of a net that was trained with other choices."""
        file = tmp_path / "changed.pt"
        checkpoint.save(state | {"config": state["config"] | changes}, file)
        config = Config.model_validate({"freeze": freeze, "pretrained": str(file)})
        return first_stage_of(config)

    own = told()
    assert own.name.startswith("softmax@")
    images, choices = sum(state["train_counts"]), state["config"]
    assert own.steps == choices["epochs"] * math.ceil(images / choices["batch_size"])
    assert told(accumulate=2).steps == choices["epochs"] * math.ceil(
        math.ceil(images / choices["batch_size"]) / 2
    )
    assert told(seed=7, out="elsewhere", threads=2, loss="softmax:label_smoothing=0") == own
    assert len({own, told(weight_decay=0.25), told(label_smoothing=0.25)}) == 3
    assert told(freeze="backbone") is None
    assert first_stage_of(Config.model_validate({"freeze": "features"})) is None


OTHER_IMAGES = {"training": "0" * 32, "validation": "1" * 32, "test": "2" * 32}


@pytest.mark.parametrize(
    ("changes", "others", "differ"),
    [
        ({"seed": 7, "out": "x", "threads": 2, "loss": "softmax:label_smoothing=0"}, {}, []),
        ({"loss": "focal"}, {}, ["loss (softmax and focal)"]),
        ({"patience": 1}, {}, ["patience (none and 1)", "epoch (2 and none)"]),
        ({"split_seed": 5}, {"images": OTHER_IMAGES}, ["training", "validation", "test"]),
        ({}, {"images": None}, []),
        ({}, {"classes": list("abcdefghij")}, ["classes"]),
        ({}, {"own_code": {"loss": {"place": "a:B", "sha256": "3" * 64}}}, ["the code of their"]),
    ],
)
def test_runs_that_differ_in_more_than_their_seed_are_named_with_what_differs(
    first, tmp_path, changes, others, differ
):
    """The mean of a head over runs of other images, nets or losses says nothing."""
    (start,) = find_runs([first])
    state = plain_state(start / "checkpoint.pt")
    if code := others.get("own_code"):
        code["loss"] |= {"package": None, "version": None}
    checkpoint.save(state | others | {"config": state["config"] | changes}, tmp_path / "b.pt")
    one, other = (checkpoint.load(file) for file in (start / "checkpoint.pt", tmp_path / "b.pt"))
    for text, begin in zip(unlike(one, other), differ, strict=True):
        assert text.startswith(begin)


def test_folds_of_the_same_images_are_of_one_group_and_seeds_with_patience_too(first, tmp_path):
    """Folds test other parts of what they divide; patience ends each seed where it ends."""
    (start,) = find_runs([first])
    state = plain_state(start / "checkpoint.pt")

    def made(fold, divided="4" * 32, **more):
        """Return the checkpoint of a fold with test images of its own."""
        choices = {"test_from": "training", "folds": 2, "fold": fold, "split_seed": fold}
        images = OTHER_IMAGES | {"test": f"{fold}" * 32, "divided": divided}
        config = state["config"] | choices | {"patience": 1}
        checkpoint.save(state | {"config": config, "images": images} | more, tmp_path / "x.pt")
        return checkpoint.load(tmp_path / "x.pt")

    history = state["journal"] | {"rows": state["journal"]["rows"][:1], "best": None}
    earlier = {"epoch": 1, "journal": history, "position": state["position"] | {"epoch": 1}}
    assert unlike(made(0), made(1, **earlier)) == []
    assert unlike(made(0), made(1, divided="5" * 32)) == ["images"]


def test_runs_of_other_choices_are_refused_before_work(first, tmp_path, capsys):
    """The two runs are named, what differs, and the way out; a run of another seed is welcome."""
    (start,) = find_runs([first])
    state = plain_state(start / "checkpoint.pt")
    for name, changes in {"seed": {"seed": 7}, "decay": {"weight_decay": 0.25}}.items():
        other = shutil.copytree(start, tmp_path / name)
        checkpoint.save(state | {"config": state["config"] | changes}, other / "checkpoint.pt")
        (other / "config.yaml").write_text(dump_yaml(state["config"] | changes))
    out = tmp_path / "out"
    assert retrain(first, out, str(tmp_path / "decay"), "--head", "ncm") == 2
    said = " ".join(words(capsys.readouterr().err))
    assert f"{start} and {tmp_path / 'decay'} differ in weight_decay (0.0005 and 0.25), and" in said
    assert "give them one by one" in said
    assert not out.exists()
    assert retrain(first, out, str(tmp_path / "seed"), "--head", "ncm") == 0


def test_a_run_on_crops_of_photos_can_be_retrained():
    """Its kept size goes with crops, or with a net that is frozen: alone it is refused."""
    of_photos = {"augment": "photo", "image_size": 96, "crop_from": 110, "dataset": "folder"}
    frozen = of_photos | _PLAIN | {"pretrained": "a-run"}
    assert Config.model_validate(frozen).kept_size == 110
    with pytest.raises(ValueError, match="crop_from"):
        Config.model_validate(frozen | {"freeze": "backbone"})


def test_los_gives_its_class_twice_an_even_share():
    """Of 100 classes the target is 0.02, as published: 1 - s + s / 100 for a smoothing s."""
    smoothing = float(choices_of("los", 100, has_bias=False)["label_smoothing"])
    assert 1 - smoothing + smoothing / 100 == pytest.approx(0.02, abs=1e-5)
    with pytest.raises(LmsmError, match="three classes"):
        choices_of("los", 2, has_bias=False)


def test_only_a_head_without_weights_of_its_own_never_decays():
    """A number a class has nothing to decay to; a new layer decays as any."""
    chosen = {name: choices_of(name, 10, has_bias=False) for name in ("lws", "samn", "crt", "vs")}
    assert [name for name, one in chosen.items() if "head_weight_decay" in one] == ["lws", "samn"]
    assert [name for name, one in chosen.items() if "sampling" in one] == ["lws", "crt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--head", "softmx"], "no loss 'softmx' (did you mean 'softmax'?)"),
        (["--head", "lws:margin=2"], "loss 'lws' has no option 'margin' (it has none)"),
    ],
)
def test_bad_heads_are_refused_before_any_work(first, tmp_path, capsys, more, message):
    """All heads are looked at before the first is trained."""
    assert retrain(first, tmp_path / "none", "--head", "crt", *more) == 2
    assert message in " ".join(words(capsys.readouterr().err))
    assert not (tmp_path / "none").exists()


def test_a_second_stage_is_no_first_stage(first, tmp_path, capsys):
    """Its net is that of another run, which is named."""
    assert retrain(first, tmp_path / "a", "--head", "crt") == 0
    assert retrain(tmp_path / "a", tmp_path / "b", "--head", "lws") == 2
    (start,) = find_runs([first])
    assert f"give the run that it was made from, {start}" in " ".join(
        words(capsys.readouterr().err)
    )
    assert main(["retrain", str(first), str(first)]) == 2
    assert "a run is given twice" in " ".join(words(capsys.readouterr().err))


@pytest.fixture
def later_broken(tmp_path):
    """A run on class folders, its checkpoint alone, and a file there that cannot be read since."""
    for label, name in enumerate(("ant", "bee")):
        for place in range(20 if label else 10):
            save(tmp_path / "photos" / name / f"{place}.png", noise(100 * label + place))
    given = f"--dataset {tmp_path / 'photos'} --image-size 8 --model paper-mnist --epochs 1"
    flags = f"{given} --batch-size 8 --threads 1 --device cpu --precision fp32 --quiet"
    assert main(["train", *flags.split(), "--out", str(tmp_path / "runs")]) == 0
    (run,) = find_runs([tmp_path / "runs"])
    (tmp_path / "photos" / "ant" / "broken.png").write_bytes(b"no image")
    shutil.copy(run / "checkpoint.pt", tmp_path / "lone.pt")
    return run, tmp_path / "lone.pt"


def test_a_file_that_broke_since_is_left_out_by_the_flag_that_is_named(
    later_broken, tmp_path, capsys
):
    """The way out that the error names is one that retrain has, and gives the run's own images."""
    run, _ = later_broken
    assert retrain(run, tmp_path / "heads", "--head", "softmax") == 3
    assert "or go on without it: --skip-unreadable" in " ".join(words(capsys.readouterr().err))
    assert retrain(run, tmp_path / "heads", "--head", "softmax", "--skip-unreadable") == 0
    (head,) = find_runs([tmp_path / "heads"])
    assert read_images_record(head).all_digests == read_images_record(run).all_digests


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("command", ["adjust", "eval", "export", "predict"])
def test_no_command_names_a_flag_that_it_lacks_for_a_file_that_broke_since(
    later_broken, tmp_path, capsys, command, alone
):
    """The run's images are found without the file, by the checkpoint alone too; export has them."""
    more = {
        "adjust": ["--adjust", "auto", "--out", tmp_path / "adjusted.pt"],
        "eval": ["--device", "cpu"],
        "export": ["--out", tmp_path / "net.pt2", "--format", "torch"],
        "predict": [tmp_path / "photos" / "ant" / "1.png", "--adjust", "auto", "--device", "cpu"],
    }
    given = [later_broken[alone], *more[command]]
    assert main([command, *map(str, given)]) == 0
    said = " ".join(words(capsys.readouterr().err))
    assert "--skip-unreadable" not in said
    assert "cannot be had" not in said
    assert "broken.png is not an image that can be read" in said


def test_a_run_without_its_record_goes_on_beside_a_file_that_broke_since(later_broken, capsys):
    """The checkpoint has digests of its images, which are the same without the file."""
    run, _ = later_broken
    (run / "images.npz").unlink()
    assert main(["resume", str(run), "--epochs", "2", "--quiet"]) == 0
    assert "--skip-unreadable" not in capsys.readouterr().err
