"""Where the arms of a study stand by its held-out images, and when its looks end it."""

import numpy as np
import pytest

from lmsm_cli.comparison.sequential import Standing, looks_at
from lmsm_cli.comparison.two_way import Over, Share
from lmsm_cli.sweeps.held_out import Answered
from lmsm_cli.sweeps.study_plan import StudyPlan
from lmsm_cli.sweeps.study_standings import Standings, look_at


def answers(text):
    """Return what nets said of four images of two classes: 1 is right, 0 wrong."""
    digests = np.arange(4 * 16).reshape(4, 16).astype(np.uint8)
    return Answered(np.array([0, 0, 1, 1]), np.array([one == "1" for one in text]), digests)


def test_arms_stand_by_their_own_rounds():
    """An arm that failed in the second round is held against softmax's first alone."""
    standings = Standings([2, 2], Over.SEEDS)
    assert standings.text(["crt", "vs"], 2) == "no round is done yet"
    assert standings.leader_text(["crt", "vs"]) == ""
    given = {"softmax": ("1010", "1100"), "crt": ("1110", "1110"), "vs": ("1111",)}
    for name, rounds in given.items():
        for one in rounds:
            standings.add(name, answers(one))
    # softmax has half of the images right, crt three quarters twice, vs all of them once
    assert standings.text(["crt", "vs"], 2) == (
        "after round 2 of 2: crt +25.0 points, vs +50.0 points"
    )
    assert standings.leader_text(["crt", "vs"]) == "vs +50.0 points"
    rows = standings.table(["crt", "vs", "focal"])
    assert [(row["name"], row["rounds"], row["score"]) for row in rows] == [
        ("softmax", 2, 0.5),
        ("crt", 2, 0.75),
        ("vs", 1, 1.0),
    ]
    assert [row.get("difference") for row in rows] == [None, 0.25, 0.5]


@pytest.mark.parametrize(
    ("variance", "goes_on", "settled"),
    [
        ({"a": 0.01, "b": 1e-6}, True, {"b": "better"}),  # a is ahead, and may yet be told
        ({"a": 100.0, "b": 1e-6}, False, {"b": "better"}),  # it has no chance of that
        ({"a": 1e-6, "b": 1e-6}, False, {"a": "better", "b": "better"}),
        ({"a": 1e-6, "b": 0.01}, False, {"a": "better"}),
    ],
)
def test_a_study_does_not_end_with_the_second_best(variance, goes_on, settled):
    """Where the arm that is further ahead is not told yet, and will perhaps be."""
    plan = StudyPlan(5, 5, looks_at(5), 2, None, None)
    mean = {"a": 0.4, "b": 0.2}
    found = {name: Standing(mean[name], (Share(variance[name], 2.0),)) for name in "ab"}
    look = look_at(found, {}, plan, 3, 2)
    assert (look.goes_on, look.settled) == (goes_on, settled)
    assert look.is_hopeless is (variance["a"] == 100)
    last = look_at(found, look.settled, plan, 5, 2)
    assert last.goes_on is not (last.settled.get("a") == "better")
