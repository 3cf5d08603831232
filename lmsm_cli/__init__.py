"""lmsm: train, evaluate and compare large-margin classifiers on balanced and long-tailed images.

The public names load on first use, so that `import lmsm_cli` (and `lmsm --help`) needs no torch.
To publish a name, add it and its module to `_PUBLIC`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "AnnealedHead": "lmsm_cli.losses.annealed_head",
    "Annealing": "lmsm_cli.losses.annealing",
    "Head": "lmsm_cli.losses.head",
    "LSoftmaxLoss": "lmsm_cli.losses.lsoftmax",
    "LinearHead": "lmsm_cli.losses.head",
    "NormalisedHead": "lmsm_cli.losses.head",
    "build_head": "lmsm_cli.losses.registry",
    "l_softmax_loss": "lmsm_cli.losses.lsoftmax",
    "load_checkpoint": "lmsm_cli.runs.checkpoint",
    "psi": "lmsm_cli.losses.margins",
    "record_run": "lmsm_cli.runs.recording",
    "sharded_l_softmax_loss": "lmsm_cli.losses.sharded",
}

__all__ = [
    "__version__",
    *_PUBLIC,
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lmsm_cli' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
