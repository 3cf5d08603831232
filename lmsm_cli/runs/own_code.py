"""Own losses and nets of a run: recorded with it, imported again only where the call names them.

A run folder can come from anybody, and to import a module is to run it. So what a run read back
names is imported only if this call names it too (`--import module:Name`), or an installed package
offers it; and only while its source file is the one that the run was trained with.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lmsm_cli.config import Config
from lmsm_cli.config.nets import own_net_place
from lmsm_cli.errors import ArgumentError, CheckpointError, LmsmError, UnnamedCodeError
from lmsm_cli.losses import own
from lmsm_cli.losses.registry import own_place
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.runs.record import read_run

_SHOWN = 12  # digits of a digest


@dataclass(frozen=True)
class _Named:
    """The own code that a call names."""

    digests: Mapping[str, str]
    """By place; empty where none is given."""
    may_be_unused: bool
    in_python: bool = False
    """Whether `load_checkpoint` is called, which has no flags."""


_named: ContextVar[_Named] = ContextVar("own code that the call names", default=_Named({}, True))  # noqa: B039


@contextmanager
def named(
    names: Sequence[str], *, may_be_unused: bool = False, in_python: bool = False
) -> Iterator[None]:
    """Let the body import what the call names: `module:Name`, or `module:Name@DIGEST`.

    The digest, of which the first eight digits are enough, is that of a source file that was
    changed since the run was trained, and is to be taken nevertheless.

    Args:
        names: The texts.
        may_be_unused: Whether a run that has no such code is read all the same (see
            `check_allowed`).
        in_python: Whether `load_checkpoint` is called: its messages know no flags, and within a
            command it takes what that names too.

    Raises ArgumentError for a text that is neither.
    """
    found = dict(_named.get().digests) if in_python else {}
    for text in names:
        place, at, digest = text.partition("@") if isinstance(text, str) else ("", "", "")
        if not own.is_place(place) or (at and len(digest) < 8):
            raise ArgumentError(
                f"{'imports holds' if in_python else '--import is'} {text!r}: give module:Name, as "
                "in my_losses:PolyLoss, or module:Name@DIGEST with eight digits at least"
            )
        found[place] = digest
    token = _named.set(_Named(found, may_be_unused, in_python))
    try:
        with own.blamed():
            yield
    finally:
        _named.reset(token)


def places_of(config: Config) -> dict[str, tuple[str, str]]:
    """Return the place and group of entry points of a config's own code, by `loss` and `model`.

    Raises LmsmError for a loss that nobody knows.
    """
    return _places(config.loss, config.model)


def _places(loss_spec: str, model: str) -> dict[str, tuple[str, str]]:
    loss, net = own_place(parse_spec(loss_spec)[0]), own_net_place(model)
    found = {"loss": (loss, own.LOSSES_GROUP), "model": (net, own.MODELS_GROUP)}
    return {kind: (place, group) for kind, (place, group) in found.items() if place}


def naming_words(values: Mapping[str, Any]) -> list[str]:
    """Return the flags that name the own code of a run, as `--config` of a run asks for."""
    loss, model = str(values.get("loss", "softmax")), str(values.get("model", ""))
    try:
        places = _places(loss, model)
    except LmsmError:  # a loss that nobody knows any more
        return []
    given = {"loss": loss, "model": model}
    return [word for kind in places for word in (f"--{kind}", given[kind])]


def train_again(run: Path) -> str:
    """Return the command that trains a run anew, in a folder of its own."""
    values = read_run(run, with_metrics=False).config or {}
    words = ["lmsm", "train", "--config", str(run / "config.yaml"), *naming_words(values)]
    return shlex.join(words)


def records_of(config: Config) -> dict[str, dict[str, str | None]] | None:
    """Return what a run records of its own code, as plain types; None where it has none."""
    places = places_of(config)
    return {kind: dict(_record(*where)) for kind, where in places.items()} or None


@cache  # the code that this process has imported stays the same
def _record(place: str, group: str) -> dict[str, str | None]:
    return asdict(own.record_of(place, group))


def digests_of(config: Config) -> dict[str, str | None]:
    """Return the digests of the sources of a config's own code; what is not found has None."""
    try:
        places = places_of(config)
    except LmsmError:  # of a package that is not there
        return {}
    return {kind: own.digest_of(place.partition(":")[0]) for kind, (place, _) in places.items()}


def check_allowed(config: Config, recorded: Mapping[str, Any] | None, run: Path) -> None:
    """Raise CheckpointError where a run names own code that must not be imported for it.

    Args:
        config: The config of the run.
        recorded: What the run recorded of its own code, by `loss` and `model`.
        run: The run folder or checkpoint, for messages.

    Raises UnnamedCodeError where the call would have to name it, LmsmError where the call names
    what the run has not.
    """
    try:
        places = places_of(config)
    except LmsmError as error:
        package = ((recorded or {}).get("loss") or {}).get("package")
        hint = f"; the run had it from the package {package!r}" if package else ""
        raise CheckpointError(f"{run}: {error}{hint}") from None
    if not _named.get().may_be_unused:
        check_used(config, run)
    unnamed = [place for place, group in places.values() if not _is_wanted(place, group)]
    if unnamed:
        raise UnnamedCodeError(str(run), unnamed, _way_to_name(*unnamed))
    for kind, (place, _) in places.items():
        record = (recorded or {}).get(kind) or {}
        _check_digest(place, record.get("sha256") if record.get("place") == place else None, run)


def is_named(place: str) -> bool:
    """Return whether the call names the code at a place."""
    return place in _named.get().digests


def check_used(config: Config, run: Path) -> None:
    """Raise LmsmError where the call names code that is none of a run's, by the run's config."""
    places = [place for place, _ in places_of(config).values()]
    unused = [place for place in _named.get().digests if place not in places]
    if not unused:
        return
    fact, way_out = "loss and net are lmsm's own", "leave it out"
    if places:
        fact = f"it was trained with {' and '.join(places)}"
        way_out = "take " + " ".join(f"--import {place}" for place in places)
    raise LmsmError(f"--import {unused[0]} has no effect on {run}: {fact}; {way_out}")


def _way_to_name(*places: str) -> str:
    """Return how a call names own code, to be added to an error."""
    if _named.get().in_python:
        return f"call load_checkpoint(path, {json.dumps(places)})"
    return "add " + " ".join(f"--import {place}" for place in places)


def _is_wanted(place: str, group: str) -> bool:
    """Return whether the call names the code, has it imported already, or a package offers it."""
    if is_named(place) or own.is_loaded(place):
        return True
    return any(offer.place == place for offer in own.offers(group).values())


def _check_digest(place: str, before: str | None, run: Path) -> None:
    module = place.partition(":")[0]
    now = own.digest_of(module)
    if now is None:
        raise CheckpointError(
            f"{run} needs {place}, and there is no file of module {module!r} in the current folder "
            "or among the installed packages: call this in the folder where it is"
        )
    accepted = _named.get().digests.get(place)
    if now == before or (accepted and now.startswith(accepted)):
        return
    then = f"was {before[:_SHOWN]} when the run was trained" if before else "was not recorded"
    raise CheckpointError(
        f"{run}: the source file of {place}, {own.source_of(module)}, has the SHA-256 "
        f"{now[:_SHOWN]}, which {then}: bring that file back, or take the file as it is now: "
        f"{_way_to_name(f'{place}@{now[:8]}')}"
    )
