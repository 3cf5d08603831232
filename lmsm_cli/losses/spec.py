"""Read and write specs, the `name:key=value,key=value` texts that name a loss with its options.

Pure string logic: which values an option takes is known where the loss is built.
"""

from lmsm_cli.errors import LmsmError

_ANNEALING = ("anneal", "lambda_start", "lambda_min", "anneal_end", "gamma", "power")

# The names of losses/__init__.py's HEADS and their options, for what must not wait for torch:
# shell completion and the schema of configs. A test holds it against HEADS.
LOSSES: dict[str, tuple[str, ...]] = {
    "softmax": ("label_smoothing",),
    "lsoftmax": (
        "margin",
        "margin_min",
        "margin_max",
        *_ANNEALING,
        "weight_norm",
        "tau",
        "class_chunk",
    ),
    "asoftmax": ("margin", *_ANNEALING, "class_chunk"),
    "cosface": ("margin", "scale", "class_chunk"),
    "arcface": ("margin", "scale", "class_chunk"),
    "large-margin-in-softmax": ("strength",),
    "ldam": ("max_margin", "scale"),
    "balanced-softmax": (),
    "logit-adjusted": ("tau",),
    "vs": ("gamma", "tau"),
    "focal": ("gamma",),
}

# Of these, the ones on the scores of a linear layer, which can have a bias; a test holds it too.
TAKE_A_BIAS = (
    "softmax",
    "large-margin-in-softmax",
    "balanced-softmax",
    "logit-adjusted",
    "vs",
    "focal",
)


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of a spec.

    >>> parse_spec("lsoftmax:margin=4,lambda_min=5")
    ('lsoftmax', {'margin': '4', 'lambda_min': '5'})

    Raises LmsmError where a piece is not `key=value` or a key stands twice.
    """
    name, colon, rest = text.strip().partition(":")
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
