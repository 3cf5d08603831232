"""The pictures of the answer: drawn from the kept runs, true to its table, readable."""

import re

import pytest
from matplotlib.text import Text

from docs import answer
from tests.test_docs import PAGES

STUDY = answer.BY_CLASS


@pytest.fixture(scope="module")
def drawn():
    """Return both pictures of the smallest kept study, laid out."""
    with answer.compared(*STUDY) as (comparison, records):
        pictures = {
            "answer": answer.differences({answer.STUDIES[STUDY]: comparison}),
            "by class": answer.by_class(comparison, records),
        }
    for figure in pictures.values():
        figure.draw_without_rendering()
    return pictures


@pytest.mark.parametrize("name", ["answer", "by class"])
def test_letters_can_be_read_on_a_page_of_900_pixels(drawn, name):
    """No letter is lower than 11 of 900 pixels, and none is cut at the figure's edge."""
    figure = drawn[name]
    pixels_an_inch = 900 / figure.get_figwidth()
    texts = figure.findobj(Text)
    shown = [text for text in texts if text.get_text() and text.get_visible()]
    assert len(shown) > 10
    for text in shown:
        assert text.get_fontsize() / 72 * pixels_an_inch >= 11, text.get_text()
    axes = figure.axes[0]
    for text in [*axes.texts, *axes.get_yticklabels(), axes.xaxis.label, axes.title]:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()


def test_the_differences_are_those_of_the_table(drawn):
    """Marks and intervals stand where the last column of the table says, on one axis."""
    (axes,) = drawn["answer"].axes
    lines = PAGES["which-loss.md"].splitlines()
    rows = [line.split("|")[-2] for line in lines if re.match(r"\| (L-S|logit)", line)]
    known = [row for row in rows if "not measured" not in row]
    wanted = [[float(n) for n in re.findall(r"[+-][\d.]+", row)] for row in known]
    bars = [line for line in axes.lines if line.get_marker() == "|"]
    marks = [line for line in axes.lines if line.get_marker() in "s^D"]
    assert len(bars) == len(marks) == len(wanted) == 2
    for bar, mark, (mean, low, high) in zip(bars, marks, wanted, strict=True):
        assert [round(float(mark.get_xdata()[0]), 1), *(round(x, 1) for x in bar.get_xdata())] == [
            mean,
            low,
            high,
        ]
        is_hollow = mark.get_markerfacecolor() == "white"
        assert is_hollow == (low <= 0 <= high)
