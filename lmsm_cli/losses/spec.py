"""Read and write specs, the `name:key=value,key=value` texts that name a loss with its options.

Pure string logic: which values an option takes is known where the loss is built.
"""

from lmsm_cli.errors import LmsmError


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of a spec.

    >>> parse_spec("lsoftmax:margin=4,lambda_min=5")
    ('lsoftmax', {'margin': '4', 'lambda_min': '5'})

    The name of a loss outside this package is itself in two pieces, and its options are a third.

    >>> parse_spec("my_losses:PolyLoss:epsilon=2")
    ('my_losses:PolyLoss', {'epsilon': '2'})

    Raises LmsmError where a piece is not `key=value` or a key stands twice.
    """
    name, colon, rest = text.strip().partition(":")
    own, second_colon, options_of_own = rest.partition(":")
    if own.strip().isidentifier():
        name, colon, rest = f"{name.strip()}:{own.strip()}", second_colon, options_of_own
    options: dict[str, str] = {}
    for piece in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not (key and equals and value):
            raise LmsmError(f"{text!r}: {piece!r} is not key=value")
        if key in options:
            raise LmsmError(f"{text!r}: {key!r} is given twice")
        options[key] = value
    if not name.strip():
        raise LmsmError(f"{text!r} has no name; write name or name:key=value")
    return name.strip(), options


def format_spec(name: str, options: dict[str, str]) -> str:
    """Return the spec text of a name and its options: the inverse of `parse_spec`."""
    pieces = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{pieces}" if pieces else name


def with_option(text: str, key: str, value: object) -> str:
    """Return the spec with one option set, in its place if it was there.

    >>> with_option("lsoftmax:margin=2,lambda_min=1", "margin", 4)
    'lsoftmax:margin=4,lambda_min=1'
    """
    name, options = parse_spec(text)
    return format_spec(name, options | {key: str(value)})
