"""Classes with too few images to be learned or to be judged, in a line for the start of a run."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from lmsm_cli.errors import visible

# Below these a class is learned by heart, and its accuracy moves by more than 20 points an image.
FEWEST_TRAINED = 5
FEWEST_TESTED = 5
_SHOWN = 3


def too_few_text(
    place: Path, counts: Mapping[str, tuple[int, int]], chosen: tuple[int, int]
) -> str | None:
    """Return which classes have too few images, the rarest first; None where none has.

    Args:
        place: the folder or list that the images are of.
        counts: by class the images that are trained on, and those that are tested.
        chosen: what somebody allows a class of each: fewer than that are no more to be had.
    """
    trained, tested = map(min, (FEWEST_TRAINED, FEWEST_TESTED), chosen)
    few = sorted(
        (*both, name) for name, both in counts.items() if both[0] < trained or 0 < both[1] < tested
    )
    if not few:
        return None
    names = [f"{visible(name)} ({one:,} and {other:,})" for one, other, name in few]
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return (
        f"few images to train and to test on: {', '.join(names[:_SHOWN])}{more}; "
        f"little is sure of them, and `lmsm data {shlex.quote(str(place))}` says what is missing"
    )
