"""Steps of several batches, averaged weights, frozen parts, own learning rates, and patience."""

import copy
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lmsm_cli.commands.app import main
from lmsm_cli.comparison.samples import samples_of
from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.splits import Data
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import build_head
from lmsm_cli.models.backbones import BACKBONES
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.models.freezing import freeze, frozen_stages, stages
from lmsm_cli.models.nets import build_backbone, without_memory
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.device import choose_runtime
from lmsm_cli.training.averaging import WeightAverage
from lmsm_cli.training.loop import Trainer, train
from lmsm_cli.training.patience import hopeless_patience, is_out_of_patience
from lmsm_cli.training.prepare import check_config
from lmsm_cli.training.resume import History
from lmsm_cli.training.run import start_run
from lmsm_cli.training.step import new_optimizer, set_learning_rate
from tests.conftest import SilentDisplay, digits_config, image_set, plain_state

CLASSES = ("a", "b", "c")


def config_of(**flags):
    """Return a config from flags."""
    return resolve([Layer.of_flags(flags)]).config


def trainer_of(config, images=44, *, size=8, backbone=None, dtype=torch.float64):
    """Return a trainer of a small net without BatchNorm, in float64, on drawn grey images."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    model = build_classifier(
        ModelSpec("paper-2d", "linear", config.loss, image_size=size),
        classes=CLASSES,
        mean=(0.5,),
        std=(0.25,),
        class_counts=torch.tensor([20, 14, 10]),
    )
    model.backbone = backbone or nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * size * size, 1152)
    )
    model = model.to(dtype)
    labels = torch.arange(images) % 3
    pixels = torch.randint(256, (images, size, size, 1), dtype=torch.uint8, generator=generator)
    part = image_set(pixels, labels, CLASSES, (0.5,), (0.25,))
    data = Data(part, None, part)
    return Trainer.create(model, config, data, choose_runtime("cpu", "fp32"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("loss", ["softmax", "lsoftmax:margin=4,anneal=linear,lambda_min=1"])
@pytest.mark.parametrize("reweight", ["none", "inverse"])
def test_accumulated_batches_are_one_large_batch(optimizer, loss, reweight):
    """44 images in steps of 3 x 4 end where steps of 12 do, the last step of 8 images included."""
    common = {"loss": loss, "reweight": reweight, "optimizer": optimizer, "epochs": 2, "lr": 0.01}
    ends = []
    for sizes in ({"batch_size": 12}, {"batch_size": 4, "accumulate": 3}):
        trainer = trainer_of(config_of(**common, **sizes))
        rows = [epoch.to_row() for epoch in train(trainer)]
        ends.append((trainer.model.state_dict(), rows))
    (large, rows), (parts, rows_of_parts) = ends
    rounding = 1e-10 if reweight == "none" else 1e-6  # class weights are in float32
    for name, value in large.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=rounding, msg=name)
    assert rows_of_parts[-1]["train_loss"] == pytest.approx(rows[-1]["train_loss"], abs=0.3)


def test_what_a_step_of_parts_minimised_is_the_mean_over_all_its_images():
    """The objective in metrics.jsonl is that of steps, not of their parts."""
    rows = []
    for sizes in ({"batch_size": 12}, {"batch_size": 4, "accumulate": 3}):
        config = config_of(epochs=1, lr=1e-12, optimizer="sgd", momentum=0, **sizes)
        (epoch,) = train(trainer_of(config, images=24))
        rows.append(epoch.to_row())
    assert rows[1]["objective"] == pytest.approx(rows[0]["objective"], rel=0.05)


def test_averaged_weights_are_the_average_by_hand():
    """At step t the average keeps min(decay, (1 + t) / (10 + t)); buffers are copied."""
    config = config_of(epochs=1, batch_size=4, ema=0.9, optimizer="sgd", lr=0.05)
    trainer = trainer_of(
        config,
        backbone=nn.Sequential(nn.Flatten(), nn.Linear(64, 1152), nn.BatchNorm1d(1152)),
    )
    model, seen = trainer.model, []
    expected = {k: v.detach().clone() for k, v in model.named_parameters()}
    trainer.optimizer.register_step_post_hook(
        lambda *_: seen.append({k: v.detach().clone() for k, v in model.named_parameters()})
    )
    assert len(list(train(trainer))) == 1
    assert len(seen) == 11
    for t, weights in enumerate(seen, 1):
        kept = min(0.9, (1 + t) / (10 + t))
        expected = {k: kept * expected[k] + (1 - kept) * weights[k] for k in expected}
    averaged = trainer.tested
    assert averaged is not model
    for name, value in averaged.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-12, atol=1e-12)
    assert not torch.equal(averaged.head.weight, model.head.weight)
    for (name, own), copied in zip(model.named_buffers(), averaged.buffers(), strict=True):
        assert torch.equal(own, copied), name


def test_without_ema_the_trained_net_is_tested():
    """Nothing is copied where nothing is averaged."""
    trainer = trainer_of(config_of(epochs=1, batch_size=4))
    assert trainer.tested is trainer.model


def test_parts_of_a_step_count_as_one_for_the_average():
    """The average follows steps, not batches."""
    trainer = trainer_of(config_of(epochs=1, batch_size=4, accumulate=3, ema=0.9))
    list(train(trainer))
    assert isinstance(trainer.average, WeightAverage)
    assert int(trainer.average.steps) == math.ceil(11 / 3)


# --- frozen parts ---

# The stages of nets as their code names them; a net of few parts is taken apart further.
STAGES = {
    "torchvision:resnet18": ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"],
    "convnext_tiny": [*(f"features.{n}" for n in range(8)), "classifier"],
    "vit_b_32": [
        "conv_proj",
        *(f"encoder.layers.encoder_layer_{n}" for n in range(12)),
        "encoder.ln",
    ],
    "timm:test_vit": ["patch_embed", *(f"blocks.{n}" for n in range(6)), "norm"],
}


@pytest.mark.parametrize("model", STAGES)
def test_the_stages_of_a_net_are_its_parts_from_the_image_on(model):
    """What `--freeze N` counts."""
    if model.startswith("timm"):
        pytest.importorskip("timm")
    net = without_memory(model, 3, 64).module
    assert list(stages(net)) == STAGES[model]
    assert frozen_stages(net, "2") == STAGES[model][:2]


@pytest.mark.parametrize("model", BACKBONES)
def test_each_of_our_nets_has_stages(model):
    """Together they hold all weights of the net."""
    net = without_memory(model, 3, 32).module
    held = [id(p) for part in stages(net).values() for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    assert len(stages(net)) >= 4


def test_frozen_stages_have_no_gradient_and_keep_their_statistics():
    """Their weights and BatchNorm stay, bit for bit; what follows is trained."""
    torch.manual_seed(0)
    config = config_of(epochs=1, batch_size=4, weight_decay=0.1, freeze="2", lr=0.1)
    net = build_backbone("resnet32", 1, 8).module
    trainer = trainer_of(config, backbone=nn.Sequential(*net, nn.Linear(64, 1152)))
    words = freeze(trainer.model, "2")
    assert words.startswith("frozen: 0, 1: 176 of ")  # 16 x 9 weights and 32 of BatchNorm
    before = copy.deepcopy(trainer.model.state_dict())
    list(train(trainer))
    after = trainer.model.state_dict()
    frozen = {k for k in after if k.startswith(("backbone.0.", "backbone.1."))}
    assert {k for k in after if torch.equal(before[k], after[k])} - {"mean", "std"} == frozen
    trainer.model.train()
    assert not trainer.model.backbone[1].training
    assert trainer.model.backbone[3].training
    for name, parameter in trainer.model.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name


def test_a_frozen_backbone_is_all_of_it():
    """Positions and the class token of a transformer, which are no part, stay too."""
    for choice in ("backbone", "1"):
        model = build_classifier(
            ModelSpec("paper-2d", "bn", "softmax"), classes=CLASSES, mean=(0.5,), std=(0.5,)
        )
        from torchvision.models import VisionTransformer

        model.backbone = VisionTransformer(32, 16, 2, 2, 32, 64)
        freeze(model, choice)
        fixed = {n for n, p in model.backbone.named_parameters() if not p.requires_grad}
        assert {"class_token", "encoder.pos_embedding"} <= fixed or choice == "1"
        assert "class_token" in fixed
        if choice == "backbone":
            assert len(fixed) == len(list(model.backbone.parameters()))
        assert all(p.requires_grad for p in (*model.neck.parameters(), *model.head.parameters()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"freeze": "0"}, "give backbone, features, or a number of stages from 1 on"),
        ({"freeze": "head"}, "give backbone, features, or a number of stages from 1 on"),
        ({"backbone_lr": 0}, "--freeze backbone keeps the weights as they are"),
        ({"backbone_lr": "inf"}, "finite"),
        ({"accumulate": 2, "sam": 0.05}, "accumulate 2 does not go with sam 0.05"),
        ({"backbone_lr": 0.1, "freeze": "backbone"}, "no effect with freeze 'backbone'"),
        ({"ema": 1}, "less than 1"),
        ({"ema": 0}, "greater than 0"),
        ({"accumulate": 0}, "greater than or equal to 1"),
        ({"patience": 0}, "greater than or equal to 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(flags, message):
    """What is wrong, and the nearest right thing."""
    with pytest.raises(LmsmError, match=message):
        config_of(**flags)


def test_more_stages_than_there_are_are_refused_before_any_data_is_read(tmp_path):
    """The message lists those that there are."""
    config = digits_config(tmp_path, freeze="100")
    with pytest.raises(LmsmError, match=r"freeze is 100, and this net has 30 stages \(0, 1, 2"):
        check_config(config)


# --- learning rates ---


def test_the_backbone_has_its_own_learning_rate():
    """It falls as the other does; neck and head keep --lr."""
    trainer = trainer_of(config_of(lr=0.1, backbone_lr=0.001, optimizer="sgd", momentum=0))
    set_learning_rate(trainer.optimizer, 0.05)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(
        [0.0005, 0.05, 0.05]
    )
    usual = new_optimizer(trainer.model, config_of(lr=0.1))
    set_learning_rate(usual, 0.05)
    assert [group["lr"] for group in usual.param_groups] == [0.05] * 3


# --- patience ---


def history_of(scores):
    """Return the history of validation scores, epoch by epoch."""
    history = History()
    for n, score in enumerate(scores, 1):
        epoch = SimpleNamespace(
            epoch=n, val_balanced_accuracy=score, to_row=lambda: {"seconds": 1.0}
        )
        history.add(epoch, 0.0)
    return history


@pytest.mark.parametrize(
    ("loss", "scores", "stops"),
    [
        ("softmax", [0.5, 0.4, 0.4], False),
        ("softmax", [0.5, 0.4, 0.4, 0.4], True),
        ("softmax", [0.5, 0.4, 0.4, 0.6], False),
        ("softmax", [None] * 9, False),
        # lambda is at its minimum at the end of epoch 5 of 10: the third epoch after it is the 8th
        ("lsoftmax:anneal=linear,anneal_end=0.5", [0.5] + [0.4] * 6, False),
        ("lsoftmax:anneal=linear,anneal_end=0.5", [0.5] + [0.4] * 7, True),
        ("lsoftmax:anneal=linear", [0.5] + [0.4] * 9, False),
        ("lsoftmax:anneal=none", [0.5, 0.4, 0.4, 0.4], True),
    ],
)
def test_patience_counts_from_the_full_margin(loss, scores, stops):
    """Epochs without a better score; under a margin that still grows they do not count."""
    config = config_of(patience=3, epochs=10, loss=loss)
    head = build_head(loss, 4, 3, torch.tensor([1, 1, 1]))
    assert is_out_of_patience(config, history_of(scores), head) is stops
    patient = Config.model_validate({"epochs": 10, "loss": loss})
    assert not is_out_of_patience(patient, history_of(scores), head)


@pytest.mark.parametrize(
    ("changes", "settled"),
    [({"warmup": 5}, 5), ({"reweight": "effective", "rebalance_from": 6}, 5)],
)
def test_patience_awaits_what_was_deferred(changes, settled):
    """A training that stops before its weights or its rate are there is another training."""
    config, head = config_of(patience=3, epochs=10, **changes), build_head("softmax", 4, 3)
    assert not is_out_of_patience(config, history_of([0.5] + [0.4] * (settled + 1)), head)
    assert is_out_of_patience(config, history_of([0.5] + [0.4] * (settled + 2)), head)
    late = config_of(patience=5, epochs=10, **changes)
    assert f"after epoch {settled} of 10; take less" in hopeless_patience(late, head)


# --- whole runs ---


def test_a_run_stops_for_want_of_patience_and_is_complete(tmp_path, capsys):
    """Its scores say the epoch; a resume has nothing to do, and neither has one that was killed."""
    config = digits_config(tmp_path, loss="softmax", patience=2, epochs=40, best_tolerance=1.0)
    folder = start_run(config, SilentDisplay(), with_plots=False)
    record = read_run(folder.path)
    assert record.state == "completed"
    assert record.scores.epoch == len(record.metrics) == 3  # the first is never beaten by 1.0
    assert record.scores.stopped_before == 40
    (sample,) = samples_of([record], ())
    images = sum(row.train_count for row in record.scores.per_class)
    assert sample.steps == 3 * math.ceil(images / config.batch_size)
    before = (folder.path / "checkpoint.pt").read_bytes()
    assert main(["resume", str(folder.path), "--quiet"]) == 0
    assert (folder.path / "checkpoint.pt").read_bytes() == before
    assert "stopped after epoch 3 of 40" in capsys.readouterr().out
    (folder.path / "scores.json").unlink()
    (folder.path / "status.json").write_text(json.dumps({"state": "running"}))
    assert main(["resume", str(folder.path), "--quiet"]) == 0
    assert (folder.path / "checkpoint.pt").read_bytes() == before
    assert read_run(folder.path).scores.epoch == 3
    assert main(["resume", str(folder.path), "--quiet", "--epochs", "60"]) == 0
    longer = read_run(folder.path)
    assert longer.scores.epoch == len(longer.metrics) == 5  # two more than it had
    assert longer.scores.stopped_before == 60


def test_patience_without_effect_is_told():
    """Under a margin that grows to the end no epoch counts; the power law's end is near enough."""
    for loss, settled in (("lsoftmax:anneal=linear", 20), ("lsoftmax", 15)):
        config, head = config_of(patience=5, epochs=20, loss=loss), build_head(loss, 4, 3)
        told = hopeless_patience(config, head)
        assert re.search(f"patience 5 has no effect.*after epoch {settled} of 20", told)
    assert not hopeless_patience(config_of(patience=3, epochs=20), build_head("lsoftmax", 4, 3))
    assert not hopeless_patience(config_of(patience=19, epochs=20), build_head("softmax", 4, 3))
    assert not hopeless_patience(config_of(epochs=20), build_head("lsoftmax", 4, 3))


class Stops(SilentDisplay):
    """Raises in a step of the second epoch, as a program that is killed."""

    def step(self, step):
        """Stop after a few steps."""
        if step.epoch == 2:
            raise KeyboardInterrupt


CHOICES = {"ema": 0.99, "accumulate": 3, "backbone_lr": 0.001, "freeze": "3"}


def test_a_stopped_run_ends_in_the_same_bits(tmp_path):
    """Averaged weights, those that are trained, and the optimiser's state are all saved."""
    whole = start_run(digits_config(tmp_path / "a", **CHOICES), SilentDisplay(), with_plots=False)
    with pytest.raises(KeyboardInterrupt):
        start_run(digits_config(tmp_path / "b", **CHOICES), Stops(), with_plots=False)
    (stopped,) = (tmp_path / "b").iterdir()
    assert main(["resume", str(stopped), "--quiet"]) == 0
    one, other = (plain_state(path / "checkpoint.pt") for path in (whole.path, stopped))
    assert one["averaging"]["steps"] == other["averaging"]["steps"] > 0
    for part in ("model", "averaging"):
        states = [state[part].get("trained", state[part]) for state in (one, other)]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items()), part
    trained = one["averaging"]["trained"]
    assert not torch.equal(trained["head.weight"], one["model"]["head.weight"])
    for place, values in one["optimizer"].items():
        for name, value in values.items():
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(other["optimizer"][place][name])
            )


def test_scores_are_of_the_averaged_weights_and_say_so(tmp_path, capsys):
    """`lmsm eval` of the checkpoint gives the scores of the run."""
    display = SilentDisplay()
    folder = start_run(digits_config(tmp_path, ema=0.9), display, with_plots=False)
    assert any("take averaged weights (--ema)" in text for text in display.said)
    scores = json.loads((folder.path / "scores.json").read_text())
    assert scores["ema"] == 0.9
    assert main(["eval", str(folder.path), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == scores["accuracy"]


def test_a_checkpoint_whose_trained_weights_are_of_another_net_is_refused(tmp_path):
    """What a stranger writes there is checked before anything is built."""
    folder = start_run(
        digits_config(tmp_path, ema=0.9, epochs=1), SilentDisplay(), with_plots=False
    )
    state = plain_state(folder.path / "checkpoint.pt")
    state["averaging"]["trained"]["head.weight"] = torch.zeros(2, 2)
    checkpoint.save(state, tmp_path / "other.pt")
    with pytest.raises(LmsmError, match="averaging is of another net"):
        checkpoint.load(tmp_path / "other.pt")


def test_a_run_tells_the_size_of_its_net(tmp_path, digits_run):
    """Weights and features stand in scores.json as the checkpoint has them."""
    scores = json.loads((digits_run / "scores.json").read_text())
    model = checkpoint.load_checkpoint(digits_run, None)  # as no imports at all
    assert scores["net"] == {
        "weights": sum(p.numel() for p in model.parameters()),
        "frozen": 0,
        "features": model.head.weight.shape[1],
    }


@pytest.mark.parametrize(
    ("choice", "message"),
    [({"accumulate": 2}, "accumulate is 2, and torchrun"), ({"ema": 0.9}, "ema is 0.9, and torch")],
)
def test_several_processes_refuse_what_they_do_not_share(choice, message):
    """By name, before the data is read; what to do instead is told."""
    from lmsm_cli.distributed.process_group import ProcessGroup
    from lmsm_cli.training.prepare import _check_ranks

    ranks = ProcessGroup(rank=0, size=2, local_rank=0, local_size=2)
    with pytest.raises(LmsmError, match=message):
        _check_ranks(config_of(**choice), ranks)
    _check_ranks(config_of(), ranks)
