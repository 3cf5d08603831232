"""The epochs of a training as text: a line each for logs, rows of one table on a terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmsm_cli.runtime.display import Epoch

_GAP = "  "


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    text: Callable[[Epoch], str]
    group: str = ""
    """What stands over the titles of neighbours."""


def _number(value: float | None, width: int, *forms: str) -> str:
    """Return a number in the first of the forms that the width has room for."""
    if value is None:
        return ""
    return next((text for form in forms if len(text := format(value, form)) <= width), "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _loss(value: float | None) -> str:
    return _number(value, 6, ".3f", ".1f", ".2g", ".0e")


def _small(value: float | None, width: int) -> str:
    return _number(value, width, ".3g", ".2g", ".0e")


_TRAINED = (
    _Column("loss", 6, lambda epoch: _loss(epoch.train_loss), "train"),
    _Column("%", 5, lambda epoch: _percent(epoch.train_accuracy), "train"),
)
_VALIDATED = (
    _Column("loss", 6, lambda epoch: _loss(epoch.val_loss), "validation"),
    _Column("%", 5, lambda epoch: _percent(epoch.val_accuracy), "validation"),
    _Column("bal. %", 6, lambda epoch: _percent(epoch.val_balanced_accuracy), "validation"),
)
_RATE = _Column("lr", 8, lambda epoch: _small(epoch.lr, 8))
_MARGIN = (
    _Column("lambda", 7, lambda epoch: _small(epoch.lam, 7)),
    _Column("margin", 6, lambda epoch: _number(epoch.effective_margin, 6, ".2f", ".3g")),
)
_SPEED = _Column("images/s", 9, lambda epoch: _number(epoch.images_per_second, 9, ",.0f", ".3g"))
# What goes first where a terminal has no room for all.
_DISPENSABLE = (_SPEED, *_MARGIN, _RATE, _VALIDATED[0], _TRAINED[0], _VALIDATED[2])
_LEFT = 7


class EpochTable:
    """The table of one training: its columns stay where they are, in at most `width` columns."""

    def __init__(self, epoch: Epoch, num_epochs: int, width: int) -> None:
        self.num_epochs, self.width = num_epochs, width
        self._first = max(len("epoch"), 2 * len(str(num_epochs)) + 1)
        columns = [*_TRAINED, *(_VALIDATED if epoch.val_loss is not None else ()), _RATE]
        columns += [*(_MARGIN if epoch.lam is not None else ()), _SPEED]
        for one in _DISPENSABLE:
            if one in columns and len(self._line(columns, [""] * len(columns))) > width:
                columns.remove(one)
        self._columns = columns

    def fits(self, epoch: Epoch, num_epochs: int, width: int) -> bool:
        """Return whether the next row of the table can be this one."""
        other = EpochTable(epoch, num_epochs, width)
        return (self._columns, self.num_epochs) == (other._columns, other.num_epochs)

    def header(self) -> list[str]:
        """Return the two lines above the first row."""
        above, at = " " * self._first, 0
        while at < len(self._columns):
            group = self._columns[at].group
            members = [one for one in self._columns[at:] if group and one.group == group]
            span = " ".join("-" * one.width for one in members or self._columns[at : at + 1])
            name = f" {group} ".center(len(span), "─") if len(members) > 1 else group[: len(span)]
            title = f"{name:>{len(span)}}"
            above += _GAP + title
            at += max(1, len(members))
        titles = [one.title for one in self._columns]
        return [above.rstrip(), self._line(self._columns, titles, "epoch", "left")]

    def row(self, epoch: Epoch, seconds_left: float | None) -> str:
        """Return the row of an epoch."""
        number = f"{epoch.epoch}/{self.num_epochs}"
        texts = [one.text(epoch) for one in self._columns]
        left = "" if seconds_left is None else clock(seconds_left)
        return self._line(self._columns, texts, number, left)

    def _line(
        self, columns: Sequence[_Column], texts: Sequence[str], first: str = "", last: str = ""
    ) -> str:
        line, group = f"{first:>{self._first}}", ""
        for column, text in zip(columns, texts, strict=True):
            line += " " if group and column.group == group else _GAP
            line += f"{text:>{column.width}}"
            group = column.group
        return line + _GAP + f"{last:>{_LEFT}}"


def epoch_line(epoch: Epoch, num_epochs: int) -> str:
    """Return the line of an epoch in a log; accuracies are margin-free."""
    pieces = [
        f"epoch {epoch.epoch:>{len(str(num_epochs))}}/{num_epochs}",
        f"train loss {epoch.train_loss:.3f} acc {epoch.train_accuracy:.3f}",
    ]
    if epoch.val_loss is not None:
        pieces.append(
            f"val loss {epoch.val_loss:.3f} acc {epoch.val_accuracy:.3f} "
            f"balanced {epoch.val_balanced_accuracy:.3f}"
        )
    if epoch.lam is not None:
        pieces.append(f"lambda {epoch.lam:.3g} (effective margin {epoch.effective_margin:.2f})")
    pieces.append(f"lr {epoch.lr:.3g}")
    pieces.append(f"{epoch.images_per_second:,.0f} images/s")
    return " | ".join(pieces)


def clock(seconds: float) -> str:
    """Return a time in at most 7 characters.

    >>> [clock(s) for s in (0, 83, 7384, 40_000, 500_000, 1e8)]
    ['0:00', '1:23', '2:03:04', '11 h 06', '5 d 18', '1157 d']
    """
    whole = round(max(0.0, seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if hours < 1:
        return f"{minutes}:{whole % 60:02}"
    if hours < 10:
        return f"{hours}:{minutes % 60:02}:{whole % 60:02}"
    if hours < 100:
        return f"{hours} h {minutes % 60:02}"
    return f"{days} d {hours % 24:02}" if days < 100 else f"{days} d"
