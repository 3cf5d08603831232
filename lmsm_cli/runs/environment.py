"""What a run ran on: versions, device, git state, command line."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).parents[2]
_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn")


def describe(device: str) -> dict[str, Any]:
    """Return the contents of environment.json; `device` is the runtime in words."""
    from lmsm_cli import __version__

    return {
        "lmsm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": device,
        "git": _git_state(),
        "command": sys.argv,
    }


def _git_state() -> dict[str, Any] | None:
    """Return commit and dirtiness of the code that runs, None where nobody knows them."""
    if not (_CHECKOUT / ".git").exists():  # installed: whatever repository lies around is not ours
        return _installed_commit()
    commit = _git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))} if commit else None


def _installed_commit() -> dict[str, Any] | None:
    """Return the commit that pip installed (`pip install git+URL@COMMIT`), as PEP 610 records it.

    <https://packaging.python.org/specifications/direct-url/>
    """
    try:
        origin = json.loads(distribution("lmsm-cli").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return {"commit": commit, "dirty": False} if commit else None


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_CHECKOUT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
