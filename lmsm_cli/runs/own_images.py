"""Whether what a flag has written would lie among a run's images, or take the place of their list.

Nothing here imports torch: `lmsm compare` has no need of it.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmsm_cli.config.keys import LIST_FILES
from lmsm_cli.data.layout import check_apart, roles_in
from lmsm_cli.errors import DataError, LmsmError


def check_apart_from_run(
    flag: str, path: Path, config: Mapping[str, Any], classes: Iterable[str]
) -> None:
    """Raise LmsmError as `check_apart` where the images of a run are still where it had them, and
    where the file is the run's list of them.

    Its folder may be gone by now, or be another: a name such as `.` is one from where it is given.
    `config` is the run's, of which older ones lack keys.
    """
    dataset, data_dir = str(config.get("dataset")), Path(str(config.get("data_dir")))
    lists = [Path(name) for key in LIST_FILES if isinstance(name := config.get(key), str)]
    if path.exists() and any(one.exists() and path.samefile(one) for one in lists):
        raise LmsmError(f"{flag} {path} is the list of the run's images: give another name")
    with suppress(DataError, OSError):  # of images that cannot be read there are none to lie among
        places = list(roles_in(data_dir).values()) or [data_dir]
        if any((place / name).is_dir() for place in places for name in classes):
            check_apart(flag, path, dataset, data_dir)
