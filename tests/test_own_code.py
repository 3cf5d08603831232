"""Losses and nets from outside the package: taken by name, refused with a reason, never imported
for a run that only names them."""

import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lmsm_cli import LinearHead, build_head, load_checkpoint
from lmsm_cli.commands import completion
from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.errors import ArgumentError, CheckpointError, LmsmError
from lmsm_cli.losses import own
from lmsm_cli.losses.angular import CosFaceLoss
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.models.nets import build_backbone, check_model
from lmsm_cli.reports.study_script import study_script
from lmsm_cli.runs import own_code
from lmsm_cli.runs.own_code import train_again
from lmsm_cli.runs.record import read_run
from lmsm_cli.training.prepare import resolved_spec
from lmsm_cli.training.resume import config_hash
from tests.conftest import digits_config, plain_state
from tests.synthetic_runs import write_run
from tests.test_resume import assert_same_bits, resumed, stopped, whole

PAGE = (Path(__file__).parent.parent / "docs" / "extend.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## A loss in a file\n")[2].partition("\n## ")[0]
LOSS = re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1]
COMMANDS = re.search(r"```console\n(.*?)```", SECTION, re.DOTALL)[1]
SMALL = ["--preset", "digits", "--images-per-class", "12", "--epochs", "1"]
SMALL += ["--threads", "1", "--device", "cpu", "--quiet"]


def forget():
    """Let this process be as one that has imported nothing of the user's."""
    for module in list(own._imported):
        sys.modules.pop(module, None)
    own._imported.clear()
    own._loaded.clear()
    own_code._record.cache_clear()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder, and a process that knows none of its modules."""
    monkeypatch.chdir(tmp_path)
    forget()
    yield tmp_path
    forget()


def write(name, text):
    """Write a module into the current folder."""
    Path(f"{name}.py").write_text(text)


def marked(text=LOSS):
    """Return a module that leaves a file where it is imported."""
    return f"open('imported', 'w').close()\n{text}"


def was_imported():
    """Return whether the marked module was imported since this was last asked."""
    found = Path("imported").exists()
    Path("imported").unlink(missing_ok=True)
    return found


def only_run():
    """Return the folder of the only run."""
    (run,) = (path for path in Path("runs").iterdir() if not path.name.startswith("."))
    return run


def test_the_section_of_the_page_works(capsys):
    """Each command of the page's section does what it says, on a few small images."""
    assert len(LOSS.strip().splitlines()) <= 16
    write("polyloss", LOSS)
    for line in COMMANDS.strip().splitlines():
        words = shlex.split(line.partition("#")[0])
        assert words[0] == "lmsm"
        if words[1] in ("train", "sweep"):
            words += [*SMALL[2:], "--out", words[1]]
        if "runs/NAME" in words:
            words[words.index("runs/NAME")] = str(next(Path("train").glob("2*")))
        if words[1] == "compare":
            words[2] = "sweep"
        forget()
        assert main(words[1:]) == 0, capsys.readouterr().err
    assert len(list(Path("sweep").glob("2*"))) == 4
    assert list(Path("train").glob("2*/model.onnx"))


def test_every_file_of_the_page_is_taken():
    """A block that begins with the name of a file is that file: its loss, or its net, is sound."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for name, text in blocks:
        write(name, text)
        (own,) = re.findall(r"^(?:class|def) (\w+)\(", text, re.M)
        if text.startswith("from torch import nn"):
            assert f"--model {name}:{own}\n" in PAGE
            check_model(f"{name}:{own}", channels=1, image_size=8)
            assert build_backbone(f"{name}:{own}", 1, 8).num_features == 32
        else:
            check_loss(f"{name}:{own}")


def test_the_growing_margin_of_the_page_grows():
    """From none to CosFace's."""
    (text,) = re.findall(r"# growing\.py\n(.*?)```", PAGE, re.DOTALL)
    write("growing", text)
    torch.manual_seed(0)
    names = ("growing:GrowingCosFace", "cosface")
    head, cosface = (build_head(f"{name}:margin=0.4", 6, 4) for name in names)
    cosface.load_state_dict(head.state_dict())
    features, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    with_margin = cosface(features, labels).item()
    without = cosface.eval()(features, labels).item()
    assert head(features, labels, 1.0).item() == pytest.approx(with_margin, rel=1e-6)
    assert head(features, labels, 0.0).item() == pytest.approx(without, rel=1e-6)
    assert without < with_margin


def test_scores_of_ones_own_are_those_of_every_plain_loss():
    """A head with its own `logits` has their cross-entropy in evaluation, and their accuracy."""

    class Turned(CosFaceLoss):
        def logits(self, features):
            return super().logits(features).flip(1)

    torch.manual_seed(0)
    head, features, labels = Turned(6, 4), torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    losses, logits = head.losses_and_logits(features, labels, 0.5)
    scores = head.logits(features)
    assert torch.equal(logits, scores)
    assert torch.equal(losses, head.losses(features, labels, 0.5))
    wanted = scores.exp().sum(dim=1).log()[:, None] - scores
    head.eval()
    torch.testing.assert_close(head.losses_of_all_labels(features, 0.5), wanted)
    torch.testing.assert_close(head.losses(features, labels), wanted[torch.arange(5), labels])


def test_a_received_run_imports_nothing(capsys):
    """Of a run that only names it, no command imports a module; where it has to, it tells what to
    type, and that works."""
    write("marked_loss", marked())
    assert main(["train", *SMALL, "--loss", "marked_loss:PolyLoss"]) == 0
    assert was_imported()
    run = str(only_run())
    Path("image").mkdir()
    tempting = ["--config", f"{run}/config.yaml", "--show-config"]
    refused = (["eval", run], ["predict", run, "image"], ["export", run], ["resume", run])
    (Path("image") / "0.png").write_bytes(PNG)
    for command in refused:
        forget()
        assert main(command) == 4, command
        error = capsys.readouterr().err
        assert f"lmsm {shlex.join(command)} --import marked_loss:PolyLoss" in error
        assert not was_imported(), command
    for command, code in (
        (["compare", "runs"], 0),
        (["report", run], 0),
        (["doctor"], None),
        (["train", *tempting], 2),
        (["train", "--resume", run], 4),
    ):
        forget()
        assert main(command) == code or code is None, capsys.readouterr().err
        assert not was_imported(), command
    forget()
    with pytest.raises(CheckpointError, match=r"call load_checkpoint.*marked_loss:PolyLoss"):
        load_checkpoint(run)
    forget()
    assert main(["eval", run, "--import", "marked_loss:PolyLoss", "--quiet"]) == 0
    assert was_imported()
    assert load_checkpoint(run, ["marked_loss:PolyLoss"]).head.epsilon == 1


def test_python_is_told_how_python_names_code(capsys):
    """Without flags: as a text or a list of texts, with the digest of a file that has changed."""
    write("marked_loss", marked())
    assert main(["train", *SMALL, "--loss", "marked_loss:PolyLoss"]) == 0
    run = only_run()
    for source, names in ((marked(), []), (marked() + "# changed\n", "marked_loss:PolyLoss")):
        write("marked_loss", source)
        forget()
        was_imported()
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(run, names)
        assert not was_imported()
        assert "--import" not in str(error.value)
        told = re.search(r"call load_checkpoint\(path, (\[.*\])\)", str(error.value))
        assert load_checkpoint(run, json.loads(told[1])).head.epsilon == 1
    for wrong in ("p", ["p"], [5]):
        with pytest.raises(ArgumentError, match=r"imports holds ('p'|5): give module:Name, as in"):
            load_checkpoint(run, wrong)


def test_a_sweep_takes_a_received_config_whose_loss_it_replaces(capsys):
    """Nothing of the run is imported then; where one arm alone has a loss, the run's is refused."""
    write("marked_loss", marked())
    run = write_run(Path("received"), "run", loss="marked_loss:PolyLoss")
    words = ["sweep", "--config", f"{run}/config.yaml", "--dry-run"]
    for varied in (["--grid", "lr=0.1,0.2"], ["--arm", "loss=softmax", "--arm", "lr=0.1"]):
        assert main([*words, *varied]) == 2
        assert "its loss is from outside lmsm" in capsys.readouterr().err
    words += ["--arm", "loss=softmax"]
    assert main([*words, "--arm", "loss=focal"]) == 0, capsys.readouterr().err
    assert not was_imported()
    assert main([*words, "--arm", "loss=marked_loss:PolyLoss"]) == 0, capsys.readouterr().err
    assert was_imported()


# a black pixel
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d76360606000"
    "000004000127340a850000000049454e44ae426082"
)


def test_a_changed_source_is_refused_with_both_digests(capsys):
    """The digest of the file is the run's, or the call takes it as it is now."""
    write("changing", LOSS)
    assert main(["train", *SMALL, "--loss", "changing:PolyLoss"]) == 0
    run = only_run()
    before = hashlib.sha256(Path("changing.py").read_bytes()).hexdigest()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["own_code"]["loss"]["sha256"] == before
    write("changing", marked())
    now = hashlib.sha256(Path("changing.py").read_bytes()).hexdigest()
    forget()
    capsys.readouterr()
    assert main(["eval", str(run), "--import", "changing:PolyLoss"]) == 4
    error = capsys.readouterr().err
    assert before[:12] in error
    assert f"--import changing:PolyLoss@{now[:8]}" in error
    assert not was_imported()
    assert main(["eval", str(run), "--import", f"changing:PolyLoss@{now[:8]}", "--quiet"]) == 0
    Path("changing.py").unlink()
    forget()
    assert main(["eval", str(run), "--import", "changing:PolyLoss"]) == 4
    assert "no file of module 'changing'" in capsys.readouterr().err


def test_a_net_and_a_loss_of_a_run_are_gone_on_from_where_they_are_named(capsys):
    """By `lmsm retrain`, and by a second stage on the class weights of an own loss; else the
    command to type is told, and nothing is imported."""
    write("marked", marked(LOSS + NET))
    code = {"net": ["--model", "marked:tiny"], "loss": ["--loss", "marked:PolyLoss"]}
    runs = {}
    for kind, words in code.items():
        assert main(["train", *SMALL, *words, "--out", kind]) == 0
        runs[kind] = str(next(Path(kind).glob("2*")))
    on_net = ["retrain", runs["net"], "--head", "ldam", "--epochs", "1", *SMALL[6:]]
    on_loss = ["train", *SMALL, "--pretrained", runs["loss"], "--freeze", "features"]
    on_loss += ["--loss", "lws"]
    for command, place in ((on_net, "marked:tiny"), (on_loss, "marked:PolyLoss")):
        forget()
        was_imported()
        capsys.readouterr()
        assert main(command) == 4
        assert f"lmsm {shlex.join(command)} --import {place}" in capsys.readouterr().err
        assert not was_imported()
        assert main([*command, "--import", place]) == 0, capsys.readouterr().err
        assert was_imported()
    for kind, key in (("net", "model"), ("loss", "loss")):
        assert main(["data", "digits", "--config", f"{runs[kind]}/config.yaml"]) == 2
        assert f"give a file without the key {key}" in capsys.readouterr().err
    for command in (on_net, on_loss, ["train", *SMALL]):
        assert main([*command, "--import", "other:Net"]) == 2
        assert "--import" in capsys.readouterr().err


def test_the_command_that_trains_a_run_again_names_its_code(capsys):
    """A run folder can come from anybody: its file alone imports nothing."""
    write("marked", marked(LOSS + NET))
    words = ["--model", "marked:tiny", "--loss", "marked:PolyLoss:epsilon=2", "--out", "my runs"]
    assert main(["train", *SMALL, *words]) == 0
    run = next(Path("my runs").glob("2*"))
    command = train_again(run)
    assert "--loss marked:PolyLoss:epsilon=2" in command
    assert command in study_script("lmsm study", "lmsm eval x", [read_run(run)])
    forget()
    assert main([*shlex.split(command)[1:], "--out", "again"]) == 0, capsys.readouterr().err
    assert len(list(Path("again").glob("2*"))) == 1
    write_run(Path(), "plain")
    assert train_again(Path("plain")) == "lmsm train --config plain/config.yaml"


def test_code_that_is_none_of_the_run_s_is_refused(digits_run, capsys):
    """A name that has no effect is told, by every command that takes one; in Python many runs may
    be read with the same names."""
    write("unused", marked())
    (Path("image.png")).write_bytes(PNG)
    run = str(digits_run)
    for command in (
        ["eval", run],
        ["predict", run, "image.png"],
        ["export", run],
        ["adjust", run, "--adjust", "1"],
        ["resume", run],
    ):
        assert main([*command, "--import", "unused:PolyLoss"]) == 2, command
        error = capsys.readouterr().err
        assert "--import unused:PolyLoss has no effect on" in error, command
        assert "loss and net are lmsm's own; leave it out" in error
    assert not was_imported()
    load_checkpoint(run, ["unused:PolyLoss"])
    places = {"loss": ("polyloss:PolyLoss", own.LOSSES_GROUP)}
    with own_code.named(["unused:PolyLoss"]), pytest.MonkeyPatch.context() as patched:
        patched.setattr(own_code, "places_of", lambda config: places)
        with pytest.raises(LmsmError, match=r"trained with polyloss:P.*take --import polyloss:P"):
            own_code.check_allowed(Config(), None, digits_run)


def test_another_source_is_another_run(tmp_path):
    """A sweep takes no run for done that was trained with another source of the loss."""

    write("hashed", LOSS)
    config = digits_config(tmp_path, loss="hashed:PolyLoss")
    before = config_hash(config)
    assert config_hash(config) == before
    forget()
    write("hashed", LOSS + "# changed\n")
    assert config_hash(config) != before


def refusal(spec):
    """Return why a loss is refused."""
    with pytest.raises(LmsmError) as error:
        check_loss(spec)
    return str(error.value)


BODY = "        losses = functional.cross_entropy"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("from", "1 / 0\nfrom", r"cannot be imported: ZeroDivisionError.*line \d+\)"),
        ("from", "import nosuchmodule\nfrom", "No module named 'nosuchmodule'"),
        ("from", "raise SystemExit(3)\nfrom", "cannot be imported: SystemExit"),
        ("class PolyLoss", "class PolyLos", "has no 'PolyLoss'.*did you mean 'PolyLos'"),
        ("class PolyLoss(LinearHead)", "class PolyLoss", "is neither a Head nor"),
        ("_losses", "_loses", "lacks the method _losses"),
        ("self.epsilon = epsilon", "self.epsilon = 1 / 0", "its constructor raises ZeroDivision"),
        (BODY, "        1 / 0\n" + BODY, "a trial call raises ZeroDivisionError.*line"),
        (BODY, "        raise SystemExit(3)\n" + BODY, "a trial call raises SystemExit: 3"),
        (
            '"none")',
            '"mean")',
            r"call fails: PolyLoss: losses of shape \(\), expected \(6,\), .* reduction='none' "
            r"\(_losses in bad_loss.py, line \d+\)$",
        ),
        ("return losses", "return losses.mean().item() #", "PolyLoss: losses of type float"),
        ("return losses", "return losses * float('nan') #", "with NaN or infinity"),
        ("return losses", "return losses.detach() #", "no gradient reaches the features"),
        ("return losses", "return losses * 0 #", "gradient of a trial call is 0"),
        ("(num_features, num_classes)", "(num_classes, num_features)", "its `weight` has shape"),
    ],
)
def test_a_bad_loss_is_refused_by_name_before_training(old, new, message):
    """Whatever is wrong with it is told with its name."""
    write("bad_loss", LOSS.replace(old, new, 1))
    text = refusal("bad_loss:PolyLoss")
    assert "loss bad_loss:PolyLoss" in text
    assert re.search(message, text, re.DOTALL)


PLAIN = """
from torch import nn
from torch.nn import functional


class Mine(nn.Module):
    def forward(self, scores, labels):
        return functional.cross_entropy(scores, labels)
"""


def test_features_of_an_own_net_are_never_kept(tmp_path, monkeypatch):
    """With the same weights other code gives other features, and nobody knows all of it."""
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))
    write("tiny_net", NET)
    own = ["--loss", "softmax", "--model", "tiny_net:tiny"]
    assert main(["train", *SMALL, *own]) == 0
    start = ["--pretrained", str(only_run()), "--freeze", "features", "--out", "heads"]
    assert main(["train", *SMALL, *own, *start]) == 0
    assert not list((tmp_path / "cache").rglob("features/*.npz"))


def test_a_plain_module_is_refused_by_its_own_name():
    """Not by that of the head which is put around it; its file and line are told too."""
    write("plain_loss", PLAIN)
    text = refusal("plain_loss:Mine")
    assert text.startswith("loss plain_loss:Mine: a trial call fails: Mine: losses of shape ()")
    assert text.endswith("reduction='none' (forward in plain_loss.py, line 7)")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("raise KeyError('boom')", 1, r"late_loss:PolyLoss raises KeyError: 'boom' .*line \d+\)"),
        ("raise SystemExit(3)", 1, "late_loss:PolyLoss raises SystemExit: 3"),
        ("losses = losses.mean()", 2, r"PolyLoss: losses of shape \(\), expected \(\d+"),
        ("losses = losses * float('nan')", 5, "the loss is no longer finite in epoch 1"),
    ],
)
def test_a_loss_that_fails_after_its_trial_fails_the_run(line, code, message, capsys):
    """By its name and line and without a traceback; an average is not spread over the batch."""
    late = f"        if len(labels) > 6:\n            {line}\n        return losses"
    write("late_loss", LOSS.replace("        return losses", late))
    words = ["train", *SMALL, "--loss", "late_loss:PolyLoss"]
    assert main(words) == code
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert json.loads((only_run() / "status.json").read_text())["exit_code"] == code


NOISY = """
import torch
from lmsm_cli import LinearHead


class NoisyLoss(LinearHead):
    def __init__(self, num_features, num_classes, *, spread: float = 0.5):
        super().__init__(num_features, num_classes)
        self.register_buffer("calls", torch.zeros(()))
        self.spread = spread

    def _losses(self, features, labels, progress):
        self.calls += 1
        noise = torch.rand(len(labels)) / self.calls
        losses = torch.nn.functional.cross_entropy(self._scores(features), labels, reduction="none")
        return losses * (1 + self.spread * noise)
"""


def test_an_own_loss_is_resumed_to_the_bit(here):
    """Its buffers are saved and its draws repeated, wherever in an epoch it was stopped."""
    write("noisy", NOISY)
    values = {"loss": "noisy:NoisyLoss", "epochs": 2}
    path = stopped(here / "left", 3, **values)
    assert plain_state(path / "checkpoint.pt")["position"]["step"] == 3
    with own_code.named(["noisy:NoisyLoss"]):
        resumed(path)
    assert_same_bits(path, whole(here / "whole", **values))
    assert plain_state(path / "checkpoint.pt")["model"]["head.calls"] == 14


def test_an_own_loss_with_its_default_written_out_is_the_same(here):
    """In plans by the hash, in run folders by the text, which tells without an import."""
    write("noisy", NOISY)
    configs = [digits_config(here, loss=f"noisy:NoisyLoss{more}") for more in ("", ":spread=0.50")]
    assert len(set(map(config_hash, configs))) == 1
    heads = [build_head(config.loss, 4, 3) for config in configs]
    specs = [resolved_spec(one.loss, head) for one, head in zip(configs, heads, strict=True)]
    assert specs == ["noisy:NoisyLoss"] * 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nosuch:PolyLoss", "neither in the current folder nor installed.*good_loss"),
        ("good_loss.py:PolyLoss", "leave the .py out, as in good_loss:NAME"),
        ("good_loss:PolyLoss:epsilo=2", "has no option 'epsilo' .*'epsilon'"),
        ("good_loss:PolyLoss:epsilon=x", "epsilon is 'x': give a number"),
        ("good_loss.PolyLoss", "no loss .* is written module:Class"),
        ("good_loss", "no loss 'good_loss'.* is written module:Class"),
        ("good_loss:functional", "is no class"),
        ("lsoftmax:margin", "'margin' is not key=value"),
        ("torch.nn:CrossEntropyLoss", "fails: CrossEntropyLoss: one loss .* reduction=none, as"),
    ],
)
def test_a_bad_name_is_refused_with_the_nearest(spec, message):
    """Modules, classes and options that are not there are told with what is."""
    write("good_loss", LOSS)
    assert re.search(message, refusal(spec), re.DOTALL)


def test_options_are_those_of_the_constructor():
    """By annotation or default, keyword-only or not; bias and counts where it takes them."""
    wanted = "epsilon=1.0, flag=False, name='x', class_counts=None"
    text = LOSS.replace("*, epsilon: float = 1.0", wanted)
    kept = "self.epsilon, self.given = epsilon, (flag, name, class_counts)"
    write("optional", text.replace("self.epsilon = epsilon", kept))
    head = build_head("optional:PolyLoss:epsilon=3,flag=true,name=y", 4, 2, torch.tensor([2, 1]))
    assert (head.epsilon, head.given[:2], head.given[2].tolist()) == (3, (True, "y"), [2, 1])
    with pytest.raises(LmsmError, match="takes no bias"):
        build_head("optional:PolyLoss", 4, 2, bias=True)


def test_a_plain_module_takes_scores():
    """A module without class weights gets a linear layer's scores, as torch's own losses do."""
    head = build_head("torch.nn:MultiMarginLoss:reduction=none,p=2", 4, 3)
    features, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    wanted = torch.nn.MultiMarginLoss(p=2, reduction="none")(features @ head.weight.T, labels)
    torch.testing.assert_close(head.losses(features, labels), wanted)
    assert isinstance(head, LinearHead)
    check_loss("torch.nn:MultiMarginLoss:reduction=none,p=2")


def test_the_current_folder_is_left_again():
    """It is on the path only while an own module is imported, and behind all others."""
    write("path_seen", "import sys\nseen = list(sys.path)\n" + LOSS)
    before = list(sys.path)
    check_loss("path_seen:PolyLoss")
    assert sys.path == before
    assert sys.modules["path_seen"].seen == [*before, str(Path.cwd())]


def test_specs_of_own_losses():
    """The first two pieces are the name."""
    assert parse_spec("a.b:C") == ("a.b:C", {})
    assert parse_spec("a.b:C:x=1,y=z") == ("a.b:C", {"x": "1", "y": "z"})
    assert parse_spec("vs:tau=1") == ("vs", {"tau": "1"})


@pytest.fixture
def package(here, monkeypatch):
    """An installed package with a loss and a net, as pip leaves one."""
    site = here / "site"
    info = site / "poly_pack-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "poly_pack.py").write_text(marked() + NET)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poly-pack\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[lmsm.losses]\npoly = poly_pack:PolyLoss\n[lmsm.models]\ntiny = poly_pack:tiny\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site


NET = """
from torch import nn


def tiny(channels):
    pooled = nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), *pooled)
"""


def test_packages_offer_losses_and_nets(package, capsys):
    """A plain name is enough, for a run read back too; it is listed without being imported."""
    assert main(["losses"]) == 0
    assert re.search(r"poly +of the package poly-pack 1.2", capsys.readouterr().out)
    assert completion.losses("pol") == ["poly"]
    assert completion.nets("tin") == ["tiny"]
    assert not was_imported()
    assert main(["losses", "poly"]) == 0
    assert "epsilon=1.0" in capsys.readouterr().out
    assert main(["train", *SMALL, "--loss", "poly:epsilon=2", "--model", "tiny"]) == 0
    run = only_run()
    recorded = json.loads((run / "environment.json").read_text())["own_code"]
    for kind, place in (("loss", "poly_pack:PolyLoss"), ("model", "poly_pack:tiny")):
        assert recorded[kind]["place"] == place
        assert (recorded[kind]["package"], recorded[kind]["version"]) == ("poly-pack", "1.2")
    forget()
    assert main(["eval", str(run), "--quiet"]) == 0
    with (package / "poly_pack.py").open("a") as file:
        file.write("# a newer version\n")
    forget()
    was_imported()
    assert main(["eval", str(run)]) == 4
    assert not was_imported()
    shutil.rmtree(package)
    forget()
    capsys.readouterr()
    assert main(["eval", str(run)]) == 4
    assert "there is no such net" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="from the package 'poly-pack'"):
        own_code.check_allowed(Config(loss="poly"), {"loss": recorded["loss"]}, run)


def test_an_own_net_is_trained_and_read_back(capsys):
    """Its width is found by a trial; it is not imported for a run that only names it."""
    write("tiny_net", marked(NET))
    assert build_backbone("tiny_net:tiny", 3, 16).num_features == 24
    forget()
    assert main(["train", *SMALL, "--loss", "softmax", "--model", "tiny_net:tiny"]) == 0
    run = str(only_run())
    forget()
    was_imported()
    assert main(["eval", run]) == 4
    assert not was_imported()
    assert main(["eval", run, "--import", "tiny_net:tiny", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nn.Flatten()", "nn.Identity()", r"gives \(2, 6, 2, 2\) for 2 images"),
        ("Conv2d(channels", "Conv2d(7", "for images of 16 pixels it raises RuntimeError"),
        ("return nn", "return channels #", "returns a int"),
        ("return nn", "1 / 0 #", "called with 3, it raises ZeroDivisionError"),
        ("def tiny", "def tini", "has no 'tiny'.*did you mean 'tini'"),
    ],
)
def test_a_bad_net_is_refused_by_name(old, new, message):
    """Whatever is wrong with it is told with its name."""
    write("bad_net", NET.replace(old, new, 1))
    with pytest.raises(LmsmError, match=message) as error:
        check_model("bad_net:tiny", channels=3, image_size=16)
    assert "net bad_net:tiny" in str(error.value)
