"""Make the README's pictures: python docs/make.py [runs/demo-...]

Those of the answer are made from the kept runs (answer.py). Of a finished demo, demo.svg is what
`lmsm demo` prints, drawn by rich; features.png is the demo's own picture.
"""

import shutil
import sys
from pathlib import Path

import answer
from rich.console import Console

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.reports.comparison_tables import comparison_tables
from lmsm_cli.reports.verdicts import conclusion_text
from lmsm_cli.runs.record import find_runs, read_run

HERE = Path(__file__).parent
# Of more, a page of 900 pixels makes the letters too small.
_COLUMNS = 100


def of_demo(demo: Path) -> None:
    """Draw the comparison's tables and copy the picture."""
    comparison = compare_runs([read_run(path) for path in find_runs([demo / "comparison"])])
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=_COLUMNS, file=nowhere, force_terminal=True)
        console.print("$ lmsm demo", style="bold green")
        for table in comparison_tables(comparison, width=_COLUMNS):
            console.print(table)
        console.print(conclusion_text(comparison))
        console.save_svg(str(HERE / "demo.svg"), title="three losses on long-tailed digits")
    shutil.copy(demo / "features.png", HERE / "features.png")


if __name__ == "__main__":
    answer.main()
    for demo in sys.argv[1:]:
        of_demo(Path(demo))
