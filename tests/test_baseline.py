"""Heads on the nets of finished runs: which are one group, and what each is held against."""

import pytest

from lmsm_cli.comparison.grouping import compare_runs
from tests.synthetic_runs import ENVIRONMENT, records_in, scores_of, write_run
from tests.test_pooling import write_repeat

NAMES = ("cat", "dog")
STAGE = "softmax@0123456789ab"


def write_head(out, name, *, first_stage=STAGE, steps=None, right=0.8, **config):
    """Write the run of a head on a net of its own; return its folder."""
    known = {"first_stage": first_stage} if first_stage else {}
    known |= {} if steps is None else {"first_stage_steps": steps}
    known |= {"pretrained": f"{len(list(out.iterdir())) if out.is_dir() else 0:032x}"}
    shared = {"freeze": "features", "pretrained": f"runs/of-{name}", "scores": scores_of(NAMES)}
    return write_run(out, name, environment=ENVIRONMENT | known, **shared | config)


def test_heads_on_the_nets_of_several_seeds_are_one_group(tmp_path):
    """What the nets were trained with counts, not which they are; without it each is alone."""
    for seed in range(3):
        write_head(tmp_path / "told", f"a{seed}", seed=seed)
        write_head(tmp_path / "untold", f"a{seed}", seed=seed, first_stage=None)
    write_head(tmp_path / "told", "b0", seed=0, first_stage="lsoftmax@0123456789ab")
    groups = compare_runs(records_in(tmp_path / "told")).groups
    assert sorted((group.label, group.seeds) for group in groups) == [
        ("softmax pretrained=lsoftmax@0123456789ab", (0,)),
        (f"softmax pretrained={STAGE}", (0, 1, 2)),
    ]
    assert len(compare_runs(records_in(tmp_path / "untold")).groups) == 3


def test_only_a_run_whose_net_stays_is_told_by_its_first_stage(tmp_path):
    """A training that goes on from weights, all of which it changes, is of these weights."""
    for seed in range(2):
        write_head(tmp_path, f"a{seed}", seed=seed, freeze="backbone")
    assert len(compare_runs(records_in(tmp_path)).groups) == 2


def test_the_steps_of_a_head_are_those_of_its_net_and_its_own(tmp_path):
    """A head that is corrected takes none; where nobody knows the net's, nothing is said."""
    few = "fewer than 500 training steps"
    for name, below, more, remarks in (
        ("long", 600, {"post_hoc": "adjust:1"}, ()),
        ("short", 400, {"post_hoc": "adjust:1"}, (few,)),
        ("trained", 400, {"loss": "lws"}, ()),  # 910 images in batches of 2 are 455 steps more
        ("together", 200, {"loss": "lws", "accumulate": 2}, (few,)),  # 228 of two batches each
        ("unknown", None, {"post_hoc": "adjust:1"}, ()),
    ):
        out = tmp_path / name
        for seed in range(2):
            write_head(out, f"a{seed}", seed=seed, epochs=1, batch_size=2, steps=below, **more)
        (group,) = compare_runs(records_in(out)).groups
        assert group.remarks == remarks, name


def test_heads_on_the_nets_of_folds_are_pooled(tmp_path):
    """The folds of a repeat are one run, though each has a net of its own."""
    write_repeat(tmp_path, range(40), freeze="features", pretrained="runs/of-each")
    for number, record in enumerate(records_in(tmp_path)):
        known = {"first_stage": STAGE, "pretrained": f"{number:032x}", "asked": "x"}
        text = ", ".join(f'"{key}": "{value}"' for key, value in known.items())
        (record.path / "environment.json").write_text(f"{{{text}}}")
    comparison = compare_runs(records_in(tmp_path))
    (group,) = comparison.groups
    assert len(group.folds[0]) == 2
    assert comparison.unscored == ()


def test_each_head_is_held_against_the_plain_one(tmp_path):
    """Softmax is also the loss of other methods; balanced draws are a part of theirs."""
    for seed in range(2):
        write_head(tmp_path, f"plain-{seed}", seed=seed, head_bias=True)
        write_head(tmp_path, f"crt-{seed}", seed=seed, head_bias=True, sampling="balanced")
        write_head(tmp_path, f"los-{seed}", seed=seed, head_bias=True, label_smoothing=0.5)
        more = {"sampling": "balanced", "head_weight_decay": 0}
        write_head(tmp_path, f"lws-{seed}", seed=seed, head_bias=True, loss="lws", **more)
        write_head(tmp_path, f"margin-{seed}", seed=seed, loss="lsoftmax:margin=2")
    comparison = compare_runs(records_in(tmp_path))
    found = {group.differs["loss"]: group for group in comparison.groups}
    assert len(comparison.groups) == 5
    baselines = [group.label for group in comparison.groups if group.is_baseline]
    assert baselines == ["softmax head_bias=True"]
    assert all(group.differences for group in comparison.groups if not group.is_baseline)
    assert found["lsoftmax:margin=2"].differences["accuracy"].n == 2
    assert not any("baseline" in note for note in comparison.notes)
    named = compare_runs(records_in(tmp_path), baseline="lsoftmax")
    assert [group.differs["loss"] for group in named.groups if group.is_baseline] == [
        "lsoftmax:margin=2"
    ]


def test_heads_without_a_plain_one_are_held_against_the_whole_run(tmp_path):
    """The run that they were made on is softmax too, and its net is theirs."""
    for seed in range(2):
        write_run(tmp_path, f"whole-{seed}", seed=seed, scores=scores_of(NAMES), epochs=20)
        write_head(tmp_path, f"adjust-{seed}", seed=seed, post_hoc="adjust:1")
        write_head(tmp_path, f"crt-{seed}", seed=seed, sampling="balanced")
    groups = held(tmp_path)
    assert [group.differs["freeze"] for group in groups if group.is_baseline] == [None]
    assert [group.differences["accuracy"].n for group in groups[1:]] == [2, 2]


def test_a_correction_is_held_against_the_net_that_it_corrects(tmp_path):
    """Not against a head with more weight decay, the only one of softmax that a study makes.

    Such a head is another method, and so is a reweighted whole run: both are held against the net.
    """
    for seed in range(2):
        write_run(tmp_path, f"whole-{seed}", seed=seed, scores=scores_of(NAMES))
        write_run(
            tmp_path, f"weighed-{seed}", seed=seed, scores=scores_of(NAMES), reweight="effective"
        )
        write_head(tmp_path, f"decayed-{seed}", seed=seed, weight_decay=0.5)
        write_head(tmp_path, f"adjust-{seed}", seed=seed, post_hoc="adjust:1")
        write_head(tmp_path, f"prior-{seed}", seed=seed, loss="balanced-softmax")
    groups = held(tmp_path)
    (baseline,) = (group for group in groups if group.is_baseline)
    assert (baseline.differs["freeze"], baseline.differs["reweight"]) == (None, "none")
    others = [group for group in groups if group is not baseline]
    assert [group.differences["accuracy"].n for group in others] == [2, 2, 2, 2]


@pytest.mark.parametrize(("recipe", "is_held"), [({}, True), ({"weight_decay": 0.5}, False)])
def test_a_correction_without_its_net_is_held_against_the_plain_head(tmp_path, recipe, is_held):
    """Whatever its rate, which a correction does not have; with another weight decay it is none."""
    for seed in range(2):
        write_head(tmp_path, f"plain-{seed}", seed=seed, lr=0.7, epochs=3, **recipe)
        write_head(tmp_path, f"adjust-{seed}", seed=seed, post_hoc="adjust:1")
        write_head(tmp_path, f"other-{seed}", seed=seed, lr=0.7, epochs=3, weight_decay=0.1)
    found = [group for group in held(tmp_path) if group.differs["post_hoc"]]
    assert [bool(group.differences) for group in found] == [is_held]


def test_another_method_is_no_baseline_unless_one_is_held_against_it(tmp_path):
    """Softmax with weights is held against softmax, but a loss with weights is held against it."""
    for loss, method in (("softmax", "none"), ("softmax", "effective"), ("ldam", "none")):
        write_run(tmp_path, f"{loss}-{method}", scores=scores_of(NAMES), loss=loss, reweight=method)
    known = {(one.differs["loss"], one.differs["reweight"]): one for one in held(tmp_path)}
    assert known["softmax", "effective"].differences
    assert known["ldam", "none"].differences
    assert [one.label for one in known.values() if one.is_baseline] == ["softmax"]
    write_run(tmp_path, "both", scores=scores_of(NAMES), loss="ldam", reweight="effective")
    labels = sorted(one.label for one in held(tmp_path) if one.is_baseline)
    assert labels == ["softmax", "softmax reweight=effective"]


def test_a_head_of_another_recipe_is_held_against_none(tmp_path):
    """Only what belongs to a method may differ: a learning rate does not."""
    for seed in range(2):
        write_head(tmp_path, f"plain-{seed}", seed=seed, lr=0.1)
        write_head(tmp_path, f"other-{seed}", seed=seed, lr=0.2)
        write_head(tmp_path, f"lws-{seed}", seed=seed, loss="lws", sampling="balanced", lr=0.2)
        write_head(tmp_path, f"alone-{seed}", seed=seed, loss="marc", lr=0.3)
    groups = {(one.differs["loss"], one.differs["lr"]): one for one in held(tmp_path)}
    assert groups["softmax", 0.1].is_baseline
    assert groups["softmax", 0.2].is_baseline
    assert groups["lws", 0.2].differences
    assert groups["marc", 0.3].differences == {}


def held(folder):
    """Return the groups of the runs in a folder."""
    return compare_runs(records_in(folder)).groups
