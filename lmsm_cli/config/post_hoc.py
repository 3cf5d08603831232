"""What stands in the place of a training of the last layer, without torch: its methods, and tau."""

import math
import re
from typing import Annotated, Final, Literal, NamedTuple, cast, get_args

from pydantic import AfterValidator, WithJsonSchema

from lmsm_cli.errors import did_you_mean

ByTau = Literal["adjust", "tau-norm", "mla"]
"""The methods that correct a classifier by a strength tau."""
NCM: Final = "ncm"
METHODS = (*get_args(ByTau), NCM)
_MOST_TAU_NORM = 1.0  # where only the directions of the class weights count


class PostHoc(NamedTuple):
    """A method and its tau; None where tau is chosen on validation images, or there is none."""

    method: ByTau | Literal["ncm"]
    tau: float | None = None

    @property
    def is_chosen(self) -> bool:
        """Whether tau is chosen on validation images."""
        return self.tau is None and self.method != NCM


def is_post_hoc(spec: str) -> bool:
    """Return whether a text begins with the name of a method: `adjust:1`."""
    return spec.partition(":")[0] in METHODS


def parse_post_hoc(spec: str) -> PostHoc:
    """Return what a text asks for: `adjust`, with tau chosen on validation images, or `adjust:1`.

    Raises ValueError for an unknown method, and a tau that it does not take.
    """
    name, colon, text = spec.partition(":")
    if name not in METHODS:
        raise ValueError(f"there is no such method{did_you_mean(name, METHODS)}")
    method = cast(ByTau | Literal["ncm"], name)
    if not colon:
        return PostHoc(method)
    if method == NCM:
        raise ValueError("ncm, the nearest class mean, has no tau: leave it out")
    if text == "auto":
        return PostHoc(method)
    tau = float(text) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) else math.nan
    most = _MOST_TAU_NORM if method == "tau-norm" else math.inf
    if not 0 <= tau <= most:
        bounds = "from 0 to 1" if method == "tau-norm" else "of at least 0"
        raise ValueError(
            f"give {method}:TAU with a number {bounds}, or {method} alone to have tau chosen on "
            "validation images"
        )
    return PostHoc(method, tau)


def _normal(spec: str) -> str:
    method, tau = parse_post_hoc(spec)
    return method if tau is None else f"{method}:{tau:g}"


_TAU = r"(auto|\d+(\.\d*)?|\.\d+)"
_OF_NORM = r"(auto|0(\.\d*)?|1(\.0*)?|\.\d+)"
PostHocSpec = Annotated[
    str,
    AfterValidator(_normal),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^((adjust|mla)(:{_TAU})?|tau-norm(:{_OF_NORM})?|{NCM})$",
        }
    ),
]
