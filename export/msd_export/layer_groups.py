"""The groups of layers of a model that an integer form can keep in float, by module name."""

from collections.abc import Iterator

from torch import nn

WORD_EMBEDDINGS = "model.word_embeddings"
"""The one embedding that is looked up by an input; the others are added whole, as constants."""

CLASSIFIER = "model.classifier"

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def layer_groups(graph: nn.Module) -> tuple[str, ...]:
    """Return the names of the groups, in the order of the model.

    A group is an element of a list of blocks or layers, or a single layer that stands in none.
    """
    return tuple(_groups_in(graph, "", in_container=False))


def is_within(name: str, group: str) -> bool:
    """Return whether a module is a group or lies inside it."""
    return name == group or name.startswith(f"{group}.")


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
