"""The report page in a real browser: quiet, sortable, usable by keyboard and on a phone."""

import json

import pytest

from docs.screenshot import browser_path, main, opened_tab
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.reports.html.page import write_page
from lmsm_cli.runs.record import find_runs, read_run
from tests.synthetic_runs import metrics_of, scores_of, write_run, write_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_path() is None, reason="no chromium or Chrome on PATH"),
]

LONG = "an_extraordinarily_long_class_name_that_nobody_would_break_anywhere_at_all"
TROUBLE = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}

# What a column shows, and where its button stands: for each sortable table and each column.
COLUMNS = """
[...document.querySelectorAll("table.sortable")].flatMap((table, t) =>
  [...table.tHead.rows[0].cells].map((cell, c) => [t, c]))
"""
SORT = """
(() => {{
  const table = document.querySelectorAll("table.sortable")[{table}];
  const heading = table.tHead.rows[0].cells[{column}];
  heading.querySelector("button").click();
  return [heading.getAttribute("aria-sort"), [...table.tBodies[0].rows].map((row) => {{
    const cell = row.cells[{column}];
    return cell.dataset.order ?? cell.textContent.trim();
  }})];
}})()
"""


@pytest.fixture(scope="module")
def tab():
    """Open a browser for all tests of this file."""
    with opened_tab() as tab:
        yield tab


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write a page of two test sets, long names, pictures, notes and a run that is left out."""
    root = tmp_path_factory.mktemp("page")
    runs = root / "runs"
    write_runs(
        runs,
        ["softmax", "lsoftmax:margin=4,lambda_min=5,weight_norm=shared", "focal"],
        3,
        pictures=True,
    )
    names = [LONG, "<script>alert(1)</script>", "שלום", "🐈"]
    write_run(runs, "z" * 120, scores=scores_of(names), metrics=metrics_of(4), dataset="folder")
    write_run(runs, "y", metrics=metrics_of(3), state="running")
    records = [read_run(path) for path in find_runs([runs])]
    write_page(root / "page.html", compare_runs(records), records)
    return root / "page.html"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_loads_without_a_word_on_the_console(tab, report, width, scheme):
    """No error, warning, message, or request of the page, and no script of a class name."""
    tab.open(report, width, scheme=scheme)
    assert [event for event in tab.events if event["method"] in TROUBLE] == []
    asked = [
        event["params"]["request"]["url"]
        for event in tab.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert [url for url in asked if url.startswith("file:")] == [report.as_uri()]


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_page_never_scrolls_sideways(tab, report, width):
    """At a laptop's width and a phone's, only tables scroll, inside their own frames."""
    tab.open(report, width)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_no_word_of_a_chart_is_cut_or_covered(tab, report, width):
    """Every text of a shown chart lies inside its picture; ticks and names don't overlap."""
    tab.open(report, width)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    cut, covered, number = tab.evaluate(TEXTS_OF_CHARTS)
    assert number > 100
    assert cut == []
    assert covered == []


# The texts that reach out of their picture, the pairs of level texts that overlap, and how many.
TEXTS_OF_CHARTS = """
(() => {
  const cut = [], covered = [];
  let number = 0;
  for (const chart of document.querySelectorAll("figure svg")) {
    const frame = chart.getBoundingClientRect();
    if (!frame.width) continue;
    const level = [];
    for (const text of chart.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      number += 1;
      if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5
          || box.top < frame.top - 0.5 || box.bottom > frame.bottom + 0.5)
        cut.push(text.textContent);
      if (!text.hasAttribute("transform")) level.push([box, text.textContent]);
    }
    for (const [i, [a, one]] of level.entries())
      for (const [b, other] of level.slice(i + 1))
        if (a.left + 1 < b.right && b.left + 1 < a.right && a.top + 3 < b.bottom - 1
            && b.top + 3 < a.bottom - 1) covered.push([one, other]);
  }
  return [cut, covered, number];
})()
"""


@pytest.mark.parametrize(("width", "shown"), [(1280, "wide"), (390, "narrow")])
def test_the_picture_of_the_question_is_drawn_for_the_window(tab, report, width, shown):
    """One of the two drawings is shown, with letters of 11 pixels and more, before any table."""
    tab.open(report, width)
    found = tab.evaluate("""
    (() => {
      const of = (kind) => document.querySelector(`.rarity .${kind} svg`).getBoundingClientRect();
      const drawing = [...document.querySelectorAll(".rarity svg")].find((one) =>
        one.getBoundingClientRect().width);
      const scale = drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width;
      const size = parseFloat(getComputedStyle(drawing.querySelector("text")).fontSize) * scale;
      const [here, table] = [drawing, document.querySelector("table")].map((one) =>
        one.getBoundingClientRect().top);
      return [of("wide").width > 0, of("narrow").width > 0, size, here < table];
    })()
    """)
    assert found[:2] == [shown == "wide", shown == "narrow"]
    assert found[2] >= 11
    assert found[3]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_answer_is_the_largest_text_of_the_first_screen(tab, report, width):
    """It is whole above the fold, larger than the title, and bold only where something is told."""
    tab.open(report, width)
    says, title, bottom, weights = tab.evaluate("""
    (() => {
      const size = (one) => parseFloat(getComputedStyle(document.querySelector(one)).fontSize);
      const answers = [...document.querySelectorAll(".answer .says")];
      return [size(".says"), size("h1"), answers[0].getBoundingClientRect().bottom,
        answers.map((one) => [one.className, getComputedStyle(one).fontWeight])];
    })()
    """)
    assert says > title >= 16
    assert bottom < 900
    assert {weight for name, weight in weights if "better" in name} == {"650"}
    assert {weight for name, weight in weights if "open" in name} == {"400"}


def test_on_a_phone_the_rare_classes_are_the_first_column(tab, report):
    """The column of few is the first of the scores, and lies whole inside the window."""
    tab.open(report, 390)
    headings, right = tab.evaluate("""
    (() => {
      const cells = [...document.querySelector(".scores").tHead.rows[0].cells];
      const few = document.querySelector(".scores tbody tr:nth-child(2)").cells[2];
      return [cells.map((one) => one.textContent.trim()), few.getBoundingClientRect().right];
    })()
    """)
    assert headings[:3] == ["Group", "n", "Few"]
    assert right <= 390


@pytest.mark.parametrize("width", [1280, 390])
def test_no_word_of_a_label_is_broken(tab, report, width):
    """Every part of a group's label stands on one line: lines end after a comma or a colon."""
    tab.open(report, width)
    broken, number = tab.evaluate(BROKEN_LABELS)
    assert number > 20
    assert broken == []


# The parts of labels that stand on more than one line, and how many parts there are.
BROKEN_LABELS = """
(() => {
  const broken = [];
  let number = 0;
  for (const label of document.querySelectorAll(".label")) {
    for (const node of label.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE) continue;
      for (const word of node.data.matchAll(/[^ ]+/g)) {
        const range = document.createRange();
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        const tops = [...range.getClientRects()].map((one) => Math.round(one.top));
        if (!tops.length) continue;
        number += 1;
        if (new Set(tops).size > 1) broken.push(word[0]);
      }
    }
  }
  return [broken, number];
})()
"""


def test_every_button_sorts_its_column(tab, report):
    """A first click sorts one way, a second the other; what is missing stays at the end."""
    tab.open(report, 1280)
    columns = tab.evaluate(COLUMNS)
    assert len(columns) > 20
    for table, column in columns:
        seen = {}
        for _ in range(2):
            direction, cells = tab.evaluate(SORT.format(table=table, column=column))
            seen[direction] = [cell for cell in cells if cell != "-"]
            assert cells == seen[direction] + ["-"] * cells.count("-")
        assert set(seen) == {"ascending", "descending"}
        try:
            expected = sorted(seen["ascending"], key=float)
            assert list(map(float, seen["descending"])) == sorted(
                map(float, expected), reverse=True
            )
        except ValueError:
            ascending = json.dumps(seen["ascending"])
            expected = tab.evaluate(
                f"{ascending}.sort((a, b) => a.localeCompare(b, undefined, {{numeric: true}}))"
            )
        assert seen["ascending"] == expected
    assert (
        tab.evaluate("document.querySelectorAll('.scores [aria-sort]').length") == 2
    )  # one a table


def test_keyboard_reaches_the_skip_link_and_sorts(tab, report):
    """Tab comes to the skip link first, and Enter on a focused heading sorts."""
    tab.open(report, 1280)
    press(tab, "Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    tab.evaluate("document.querySelector('.scores thead button').focus()")
    press(tab, "Enter", text="\r")
    assert tab.evaluate("document.querySelector('.scores thead th').ariaSort") == "ascending"
    press(tab, "Tab")
    assert tab.evaluate("document.activeElement.closest('th').textContent") == "n"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def press(tab, key, text=""):
    """Press and release a key."""
    code = {"Tab": 9, "Enter": 13}[key]
    for kind in ("keyDown", "keyUp"):
        tab.send(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=key,
            windowsVirtualKeyCode=code,
            **({"text": text} if text and kind == "keyDown" else {}),
        )


def test_groups_differ_in_dashes_where_their_colours_repeat(tab, report):
    """Of the 64 groups that are told apart, those of one colour have eight different dashes."""
    tab.open(report, 1280)
    dashes = tab.evaluate("""[1, 2, 3, 4, 5, 6, 7, 8].map((n) => {
      const mark = document.body.appendChild(document.createElement('span'));
      mark.className = `s2 d${n}`;
      return getComputedStyle(mark).getPropertyValue('--dash');
    })""")
    assert len(set(dashes)) == 8


def test_dark_and_light_differ_and_both_can_be_read(tab, report):
    """Text stands out from its ground by 4.5 to 1 and more, in both schemes."""
    grounds = []
    for scheme in ("light", "dark"):
        tab.open(report, 1280, scheme=scheme)
        grounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        for selector in (
            "body",
            ".hint",
            ".scores caption",
            ".scores thead button",
            *BADGES,
            "small.better, small.worse",
            "small.open, small.interval",
            ".heat .deep",
        ):
            colour, ground = tab.evaluate(
                f"({COLOURS})(document.querySelector({json.dumps(selector)}))"
            )
            assert contrast(colour, ground) >= 4.5, (scheme, selector)
        cells = tab.evaluate(
            f"[...document.querySelectorAll('.heat tbody td[style]')].map({COLOURS})"
        )
        assert min(contrast(colour, ground) for colour, ground in cells) >= 4.5, scheme
    assert grounds[0] != grounds[1]


BADGES = [f"tbody .badge.s{number}" for number in range(1, 5)]

# The colour of an element's text and of the nearest ground that is not transparent, as 0 to 255.
COLOURS = """
(element) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); };
  const rgb = () => [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  const grounds = [];
  for (let one = element; one; one = one.parentElement)
    grounds.push(getComputedStyle(one).backgroundColor);
  grounds.reverse().forEach(paint);
  const ground = rgb();
  paint(getComputedStyle(element).color);
  return [rgb(), ground];
}
"""


def contrast(colour, ground):
    """Return the contrast of WCAG 2: 1 for equal colours, 21 for black on white."""
    lights = []
    for channels in (colour, ground):
        shares = [c / 255 for c in channels]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


def test_page_reads_without_a_script(tab, report):
    """With scripts off everything is there but the buttons."""
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(report, 1280)
        root = tab.send("DOM.getDocument")["root"]["nodeId"]
        html = tab.send("DOM.getOuterHTML", nodeId=root)["outerHTML"]
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert "<button" not in html
    assert "Balanced accuracy" in html
    assert html.count("<svg") > 20


def test_screenshots_are_as_wide_as_asked(report, tmp_path):
    """docs/screenshot.py takes one picture at a laptop's width and one at a phone's."""
    from PIL import Image

    main(report, str(tmp_path / "report"))
    main(report, str(tmp_path / "top"), 800)
    for width in (1280, 390):
        with Image.open(tmp_path / f"top-{width}.png") as image:
            assert image.size == (width, 800)
        with Image.open(tmp_path / f"report-{width}.png") as image:
            assert image.width == width
            assert image.height > 1000
            assert len(image.convert("L").getcolors(256)) > 50
