"""What a sweep will still take: by finished runs of a kind, else by one of the kind tried out."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lmsm_cli.config import Config
from lmsm_cli.errors import LmsmError
from lmsm_cli.sweeps import time_left as module
from lmsm_cli.sweeps.time_left import time_left
from tests.conftest import SilentDisplay

PHASES = {
    "preparing": 100.0,
    "training": 6.0,
    "validation": 3.0,
    "checkpoints": 1.0,
    "testing": 2.0,
    "plots": 0.5,
}


def one(label, seconds=None, **choices):
    """Return a run of a plan, completed in so many seconds or still to do."""
    config = Config(dataset="digits", epochs=10, **choices)
    state = "missing" if seconds is None else "completed"
    return SimpleNamespace(
        run=SimpleNamespace(config=config, label=label), state=state, seconds=seconds
    )


@pytest.fixture
def tried(monkeypatch):
    """Return the models that were tried out: each training takes ten seconds."""
    models = []

    def dry_run(config, display):
        models.append(config.model)
        return {"phases": PHASES}

    monkeypatch.setattr(module, "dry_run", dry_run)
    return models


def test_one_run_of_each_kind_is_tried_and_the_rest_follows_its_epochs(tried):
    """1.0 s an epoch and 2 s of test; seeds, losses and learning rates are of one kind."""
    found = [
        one("a", model="resnet18"),
        one("b", model="resnet18", seed=1, lr=0.5, loss="lsoftmax"),
        one("c", model="vgg16"),
    ]
    left = time_left(found, SilentDisplay(), with_plots=False)
    assert tried == ["resnet18", "vgg16"]
    assert [(run.label, run.seconds) for run in left.tried] == [("a", 12.0), ("c", 12.0)]
    assert (left.seconds, left.num_runs) == (36.0, 3)
    assert time_left(found, SilentDisplay(), with_plots=True).seconds == 37.5


def test_finished_runs_of_a_kind_are_believed_and_none_of_it_is_tried(tried):
    """A mean over them, by the epoch; another kind is tried all the same."""
    found = [one("a", 20.0, model="resnet18"), one("b", 40.0, model="resnet18", seed=1)]
    assert time_left(found, SilentDisplay(), with_plots=False) is None
    found.append(one("c", model="resnet18", seed=2))
    left = time_left(found, SilentDisplay(), with_plots=False)
    assert (left.seconds, left.tried, tried) == (30.0, (), [])
    left = time_left([*found, one("d", model="vgg16")], SilentDisplay(), with_plots=False)
    assert (left.seconds, [run.label for run in left.tried]) == (42.0, ["d"])


def test_of_many_kinds_the_first_alone_are_tried(tried):
    """The others are taken to be as fast as those are on average."""
    models = ["resnet18", "vgg16", "vgg16_bn", "resnet32", "paper-2d"]
    found = [one(model, model=model) for model in models]
    left = time_left(found, SilentDisplay(), with_plots=False)
    assert (left.seconds, tried) == (60.0, models[:3])


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ({"dataset": "cifar10", "data_dir": Path("nowhere")}, "cifar10 is not below nowhere"),
        ({"pretrained": "imagenet", "model": "resnet18"}, "weights of resnet18 are not on"),
    ],
)
def test_nothing_is_downloaded_to_tell_the_time(tried, monkeypatch, tmp_path, choices, why):
    """A dry run lists runs; what it would have to fetch for more, it names."""
    monkeypatch.setattr(module, "has_cached_weights", lambda model: False)
    monkeypatch.chdir(tmp_path)
    found = [one("a")]
    found[0].run.config = found[0].run.config.model_copy(update=choices)
    with pytest.raises(LmsmError, match=why):
        time_left(found, SilentDisplay(), with_plots=False)
    assert tried == []
