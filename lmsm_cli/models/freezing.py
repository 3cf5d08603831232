"""Which weights stay as they are: of the backbone all or those of its first stages, or all up to
the last layer."""

from torch import nn

from lmsm_cli.errors import LmsmError, listed
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.models.nets import parameter_count

# A net of fewer parts is taken apart further: all of a ConvNeXt but its norm is one part.
_FEWEST_STAGES = 4
# The choices that freeze the whole net; `features` freezes the neck too.
WHOLE = ("backbone", "features")


def stages(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a net that have weights, by name, from the image on.

    Where these are fewer than four, the one with the most weights is replaced by its own parts.
    """
    found = _with_weights("", backbone)
    while len(found) < _FEWEST_STAGES:
        apart = {path: _with_weights(f"{path}.", part) for path, part in found.items()}
        possible = [path for path, parts in apart.items() if len(parts) > 1]
        if not possible:
            return found
        largest = max(possible, key=lambda path: parameter_count(found[path]))
        found = {
            name: part
            for path, whole in found.items()
            for name, part in (apart[path] if path == largest else {path: whole}).items()
        }
    return found


def _with_weights(prefix: str, module: nn.Module) -> dict[str, nn.Module]:
    """Return a module's parts that have weights, by name."""
    return {
        f"{prefix}{name}": part
        for name, part in module.named_children()
        if any(True for _ in part.parameters())
    }


def frozen_stages(backbone: nn.Module, choice: str) -> list[str]:
    """Return the names of the parts of a net that `--freeze` means, all but for a number.

    Raises LmsmError, with the stages that there are, for more than there are.
    """
    known = list(stages(backbone))
    if choice in WHOLE:
        return known
    if int(choice) > len(known):
        raise LmsmError(
            f"freeze is {choice}, and this net has {len(known)} stages ({listed(known, 20)}); "
            "take fewer, or backbone for all"
        )
    return known[: int(choice)]


def freeze(model: Classifier, choice: str) -> str:
    """Freeze the backbone of a classifier, or what else `--freeze` means, in place; say what it is.

    Frozen weights get no gradient, and their parts run as in evaluation. Weights of the net that
    belong to no part, such as a transformer's positions, are before its first stage.
    """
    names = frozen_stages(model.backbone, choice)
    parts = [model.backbone, model.neck] if choice == "features" else [model.backbone]
    stay = [parameter for part in parts for parameter in part.parameters()]
    for parameter in stay if choice in WHOLE else _first(model.backbone, names):
        parameter.requires_grad = False
    whole = {"backbone": ("backbone",), "features": ("backbone", "neck")}
    model.frozen = whole.get(choice, tuple(f"backbone.{name}" for name in names))
    model.train(model.training)
    fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    words = {"backbone": "the whole backbone", "features": "all but the last layer"}
    what = words.get(choice, ", ".join(names))
    return f"frozen: {what}: {fixed:,} of {parameter_count(model):,} weights"


def _first(backbone: nn.Module, names: list[str]) -> list[nn.Parameter]:
    stages_after = set(stages(backbone)) - set(names)
    later = {
        id(parameter)
        for name in stages_after
        for parameter in backbone.get_submodule(name).parameters()
    }
    return [parameter for parameter in backbone.parameters() if id(parameter) not in later]
