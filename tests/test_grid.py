"""What --grid, --arm and --seeds say: the values, the combinations, and every mistake."""

import pytest

from lmsm_cli.errors import LmsmError
from lmsm_cli.sweeps.grid import (
    Choices,
    Range,
    check_flags,
    label,
    parse_axes,
    parse_seeds,
    product,
    samples,
    seeds_text,
)

GRIDS = {
    "lr=0.1,0.01": ("lr", ["0.1", "0.01"]),
    "batch-size = 32, 64": ("batch_size", ["32", "64"]),
    "--weight-decay=0": ("weight_decay", ["0"]),
    "margin=2,auto": ("margin", ["2", "auto"]),
    "loss=softmax,lsoftmax:margin=4,lambda_min=5": (
        "loss",
        ["softmax", "lsoftmax:margin=4,lambda_min=5"],
    ),
    "loss=vs:tau=1,gamma=0.2,focal,ldam:scale=20,max_margin=0.3": (
        "loss",
        ["vs:tau=1,gamma=0.2", "focal", "ldam:scale=20,max_margin=0.3"],
    ),
    "loss=vs:tau=1,gamma=0.2;focal": ("loss", ["vs:tau=1,gamma=0.2", "focal"]),
    "milestones=160,180;120,160": ("milestones", ["160,180", "120,160"]),
    "pretrained=../a.pt,b=c.pt": ("pretrained", None),
}


def test_a_flag_whose_key_is_varied_is_no_silent_loser():
    """The flag and the varied key are named; a margin is part of the loss; other flags are free."""
    axes = parse_axes(["lr=1,2"], ["loss=softmax epochs=2", "loss=focal"])
    check_flags(axes, {"batch_size": 4, "lr": None, "margin": None})
    with pytest.raises(LmsmError) as told:
        check_flags(axes, {"lr": "0.2", "margin": "4", "epochs": 1, "batch_size": 4})
    assert str(told.value).splitlines() == [
        "--epochs 1 is given, and epochs is varied: leave one of them out",
        "--lr 0.2 is given, and lr is varied: leave one of them out",
        "--margin 4 is given, and loss is varied: leave one of them out",
    ]


@pytest.mark.parametrize(("text", "wanted"), GRIDS.items(), ids=list(GRIDS))
def test_a_grid_is_a_key_and_its_values(text, wanted):
    """Commas part values, semicolons those that hold commas; a loss keeps its options."""
    name, values = wanted
    if values is None:
        with pytest.raises(LmsmError, match="a --grid of its own"):
            parse_axes([text], [])
        return
    (axis,) = parse_axes([text], [])
    assert axis == Choices(name, tuple({name: value} for value in values))


RANGES = {
    "lr=0.0001..0.1:log": Range("lr", 0.0001, 0.1, log=True, whole=False),
    "batch_size=32..256": Range("batch_size", 32, 256, log=False, whole=True),
    "margin=1..4.5": Range("margin", 1.0, 4.5, log=False, whole=False),
    "momentum=0..0.99": Range("momentum", 0.0, 0.99, log=False, whole=False),
    "head_weight_decay=1e-4..0.01:log": Range(
        "head_weight_decay", 0.0001, 0.01, log=True, whole=False
    ),
    "images_per_class=10..50": Range("images_per_class", 10, 50, log=False, whole=True),
}


@pytest.mark.parametrize(("text", "wanted"), RANGES.items(), ids=list(RANGES))
def test_a_range_has_two_ends_and_the_type_of_its_key(text, wanted):
    """Whole numbers stay whole where the key takes only those."""
    (axis,) = parse_axes([text], [])
    assert axis == wanted
    assert type(axis.low) is (int if wanted.whole else float)


@pytest.mark.parametrize(
    ("low", "high", "value", "wanted"),
    [
        (0.0001, 0.1, 0.0012345678, "0.001235"),
        (0.0, 1.0, 0.0, "0"),
        (0.12341, 0.12342, 0.123415, "0.12341"),
        (1e-30, 1.0, 1.2345e-30, "1.234e-30"),
    ],
)
def test_a_drawn_number_has_four_digits_within_the_range(low, high, value, wanted):
    """Texts that a person can copy, and never outside of what was asked for."""
    text = Range("lr", low, high, log=False, whole=False).text(value)
    assert float(text) == pytest.approx(float(wanted), rel=1e-3)
    assert low <= float(text) <= high
    assert len(text.strip("0.")) <= 12


def test_an_arm_is_several_choices():
    """An arm's choices stay together, and its values may hold commas."""
    (axis,) = parse_axes(
        [], ["loss=ldam reweight=effective rebalance-from=9", "loss=softmax milestones=160,180"]
    )
    assert [label(option) for option in axis.ends()] == [
        "loss=ldam reweight=effective rebalance_from=9",
        "loss=softmax milestones=160,180",
    ]


MISTAKES = [
    (["lrr=1,2"], [], "unknown key 'lrr' (did you mean 'lr'?)"),
    (["lr"], [], "'lr' is not key=value"),
    (["lr="], [], "'lr=' is not key=value"),
    (["lr=1,,2"], [], "a value is missing"),
    (["lr=1,2,1"], [], "1 stands twice"),
    (["seed=1,2"], [], "varied by --seeds"),
    (["out=a,b"], [], "give it once, as --out"),
    (["device=cpu,cuda"], [], "does not change what is computed"),
    (["tensorboard=true,false"], [], "does not change what is computed"),
    (["lr=0.1,batch_size=32"], [], "'batch_size=32' is no value of lr"),
    (["loss=softmax,lambda_min=5"], [], "'lambda_min=5' is no value of loss"),
    (["lr=1,2", "lr=3,4"], [], "lr is varied twice"),
    (["loss=softmax,focal"], ["loss=ldam"], "loss is varied twice"),
    (["loss=a..b"], [], "loss takes no range"),
    (["lr=0.1..0.01"], [], "does not rise"),
    (["lr=0.1..nan"], [], "does not rise"),
    (["lr=0.1..x"], [], "is not LOW..HIGH"),
    (["batch_size=1.5..2.5"], [], "of whole numbers"),
    (["lr=0..1:log"], [], "begins above 0"),
    (["lr=0.1..1:ln"], [], "'ln' after the range is not known"),
    ([], [""], "write key=value"),
    ([], ["loss=ldam loss=focal"], "loss is given twice"),
    ([], ["loss='ldam"], "No closing quotation"),
    ([], ["loss=ldam reweigth=effective"], "did you mean 'reweight'?"),
]


@pytest.mark.parametrize(("grids", "arms", "message"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_mistakes_are_named(grids, arms, message):
    """Each mistake has its sentence, with the nearest right name where there is one."""
    with pytest.raises(LmsmError) as told:
        parse_axes(grids, arms)
    assert message in str(told.value)


def test_all_mistakes_are_told_together():
    """Three bad flags, three lines."""
    with pytest.raises(LmsmError) as told:
        parse_axes(["lrr=1", "seed=2"], ["reweigth=none"])
    assert len(str(told.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", (0,)), ("5", (0, 1, 2, 3, 4)), ("7,3", (7, 3)), (" 0, 1 ", (0, 1))]
)
def test_seeds_are_a_number_or_a_list(text, seeds):
    """One number is how many, several are the seeds; a command that is shown has them back."""
    assert parse_seeds(text) == seeds
    assert parse_seeds(seeds_text(seeds)) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "1,1", "a", "1.5", "1,", "1e3", "99999999", "²"])
def test_other_seeds_are_refused(text):
    """Nothing else is taken for seeds."""
    with pytest.raises(LmsmError, match="seeds is"):
        parse_seeds(text)


def test_every_combination_is_made_once():
    """Arms and grids are joined as a product; the first varies slowest."""
    axes = parse_axes(["lr=1,2", "batch_size=8,16"], ["loss=softmax", "loss=focal neck=bn"])
    found = [label(choices) for choices in product(axes)]
    assert len(found) == len(set(found)) == 8
    assert found[:2] == ["loss=softmax lr=1 batch_size=8", "loss=softmax lr=1 batch_size=16"]
    assert found[-1] == "loss=focal neck=bn lr=2 batch_size=16"
    assert product([]) == [{}]


def test_a_plan_has_no_range_and_no_million_runs():
    """A range is for --trials; a slip that would make a million runs is noticed before it does."""
    with pytest.raises(LmsmError, match="search it with --trials"):
        product(parse_axes(["lr=0.1..1"], []))
    with pytest.raises(LmsmError, match="makes 40,000 runs"):
        product(parse_axes(["lr=1,2", "gamma=0.1,0.2"], []), 10_000)


def test_samples_have_every_value_and_both_ends():
    """What is checked beforehand touches each value once, not each combination."""
    axes = parse_axes(["lr=0.1..1", "batch_size=8,16,32"], ["loss=softmax", "loss=focal neck=bn"])
    found = list(samples(axes))
    assert {value for choices in found for value in choices.values()} == {
        "0.1",
        "1",
        "8",
        "16",
        "32",
        "softmax",
        "focal",
        "bn",
    }
    assert len(found) == 1 + 1 + 2 + 1
