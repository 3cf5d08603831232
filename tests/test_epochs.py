"""The epochs as text: a log's line names its numbers, a terminal's table keeps its width."""

from dataclasses import replace

import pytest

from lmsm_cli.commands.epochs import EpochTable, epoch_line
from tests.test_progress import EPOCH

PLAIN = replace(EPOCH, lam=None, effective_margin=None)
NOT_VALIDATED = replace(PLAIN, val_loss=None, val_accuracy=None, val_balanced_accuracy=None)


def test_a_line_tells_the_epoch():
    """An epoch's line holds margin-free scores, lambda with the margin in force, lr and speed."""
    assert epoch_line(EPOCH, 10) == (
        "epoch  3/10 | train loss 1.000 acc 0.500 | val loss 1.200 acc 0.400 balanced 0.300 | "
        "lambda 5 (effective margin 1.50) | lr 0.001 | 1,234 images/s"
    )


def test_a_terminal_of_80_columns_has_all_but_the_speed():
    """Percents, lambda, margin and the time left stand below their titles."""
    table = EpochTable(EPOCH, 10, 80)
    assert [*table.header(), table.row(EPOCH, 83.4)] == [
        "       ── train ───  ──── validation ───",
        "epoch    loss     %    loss     % bal. %        lr   lambda  margin     left",
        " 3/10   1.000  50.0   1.200  40.0   30.0     0.001        5    1.50     1:23",
    ]


def test_a_wider_terminal_has_the_speed_too():
    """At 120 columns there is room for images a second."""
    table = EpochTable(EPOCH, 10, 120)
    assert table.header()[1].split()[-2:] == ["images/s", "left"]
    assert table.row(EPOCH, 0).split()[-2:] == ["1,234", "0:00"]


def test_what_a_run_lacks_has_no_column():
    """Without validation or margin there are no empty columns for them."""
    assert "validation" not in "".join(EpochTable(NOT_VALIDATED, 10, 80).header())
    assert "lambda" not in EpochTable(PLAIN, 10, 80).header()[1]
    assert "lambda" in EpochTable(EPOCH, 10, 80).header()[1]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("num_epochs", [3, 200, 50_000])
@pytest.mark.parametrize("shown", [EPOCH, PLAIN, NOT_VALIDATED])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"train_loss": 109.12, "train_accuracy": 1.0, "lr": 0.0000123},
        {"train_loss": 1e9, "lr": 123.456, "images_per_second": 1234567.0},
    ],
)
def test_no_row_is_wider_than_the_screen(width, num_epochs, shown, values):
    """Whatever the numbers, every line of a table has one width, and none is cut."""
    margin = {"lam": 0.000123, "effective_margin": 3.987} if shown.lam is not None else {}
    epoch = replace(shown, epoch=num_epochs, **values, **margin)
    table = EpochTable(epoch, num_epochs, width)
    header, row = table.header()[-1], table.row(epoch, 123456.0)
    assert len(header) == len(row) <= width
    assert len(table.header()[0]) <= width
    texts = row.split()
    assert texts[0] == f"{num_epochs}/{num_epochs}"
    assert f"{100 * epoch.train_accuracy:.1f}" in texts
    if epoch.val_accuracy is not None:
        assert f"{100 * epoch.val_accuracy:.1f}" in texts
    assert row.endswith(" 34 h 17")


def test_a_table_ends_where_its_columns_do_not_fit():
    """A row of another width or another number of epochs is of another table."""
    table = EpochTable(EPOCH, 10, 80)
    assert table.fits(replace(EPOCH, epoch=4), 10, 80)
    assert not table.fits(EPOCH, 10, 60)
    assert not table.fits(PLAIN, 10, 80)
    assert not table.fits(EPOCH, 100, 80)
