"""The groups of layers of a model that an integer form can keep in float, by module name."""

from collections.abc import Iterator

from torch import nn

WORD_EMBEDDINGS = "model.word_embeddings"
"""The one embedding that is looked up by an input; the others are added whole, as constants."""

CLASSIFIER = "model.classifier"

ROOT = "model."
"""What the names of all of a graph's parameters begin with."""

_CONTAINERS = (nn.Sequential, nn.ModuleList)

# Names of parameters are cut behind these: a block, a sublayer and an embedding are one group each.
_INDEXED = frozenset({"blocks", "layers"})
_SUBLAYERS = frozenset({"attention", "feed_forward"})


def layer_groups(graph: nn.Module) -> tuple[str, ...]:
    """Return the names of the groups, in the order of the model.

    A group is an element of a list of blocks or layers, or a single layer that stands in none.
    """
    return tuple(_groups_in(graph, "", in_container=False))


def is_within(name: str, group: str) -> bool:
    """Return whether a module is a group or lies inside it."""
    return name == group or name.startswith(f"{group}.")


def group_of_parameter(parameter: str) -> str:
    """Return the name of the group that a parameter stands in, as targets name it that see files.

    For example vision.blocks.3, layers.0.attention or classifier.
    """
    parts = parameter.removeprefix(ROOT).split(".")[:-1] or [parameter]
    for position, part in enumerate(parts):
        if part in _SUBLAYERS or part in ("stem", "head"):
            return ".".join(parts[: position + 1])
        if part in _INDEXED:
            inner = parts[position + 2 : position + 3]
            return ".".join(parts[: position + 2 + (inner[0] in _SUBLAYERS if inner else 0)])
    return ".".join(parts)


def _groups_in(module: nn.Module, name: str, *, in_container: bool) -> Iterator[str]:
    is_container = isinstance(module, _CONTAINERS)
    if name == WORD_EMBEDDINGS or isinstance(module, nn.Conv2d | nn.Linear):
        yield name
    elif in_container and not is_container:
        if any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules()):
            yield name
    else:
        for child_name, child in module.named_children():
            path = f"{name}.{child_name}".lstrip(".")
            yield from _groups_in(child, path, in_container=is_container)
