"""`lmsm doctor`: whether everything is there that a run needs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.commands.options import switch, value
from lmsm_cli.config.resolve import resolve

_DataDir = Annotated[
    Path | None, value("PATH", "Where to look for data (default: $LMSM_DATA_DIR, else data).")
]
_Out = Annotated[Path, value("PATH", "Folder that run folders are to be made in.")]
_ClearCache = Annotated[
    bool, switch("--clear-cache", "Delete the decoded images that are kept, but for those in use.")
]
_Json = Annotated[bool, switch("--json", "Print the checks as JSON.")]


def doctor(
    data_dir: _DataDir = None,
    out: _Out = Path("runs"),
    clear_cache: _ClearCache = False,
    json: _Json = False,
) -> None:
    """Check versions, devices, arithmetic, disk, data and cache; each problem with what mends it.

    Downloads nothing and reads no data set. Exit code 1 where something is missing that every run \
needs.
    """
    from lmsm_cli.commands.checks import diagnose
    from lmsm_cli.reports.tables_checks import checks_table

    if clear_cache:
        from lmsm_cli.data.cache import clear  # imports torch, which may be broken

        clear()
    checks = [asdict(check) for check in diagnose(data_dir or resolve([]).config.data_dir, out)]
    healthy = all(check["status"] != "problem" for check in checks)
    if json:
        print_json({"healthy": healthy, "checks": checks})
    else:
        stdout_console().print(checks_table(checks))
    if not healthy:
        raise typer.Exit(1)
