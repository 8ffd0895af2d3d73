"""The groups of layers of a model that an integer form can keep in float."""

from torch import nn

from msd_export.layer_names import ROOT, WORD_EMBEDDINGS, group_of

_WEIGHTED = (nn.Conv2d, nn.Linear)


def layer_groups(graph: nn.Module) -> tuple[str, ...]:
    """Return the names of the groups that have weights, in the order of the model.

    Args:
        graph: The exported graph; its model stands under `layer_names.ROOT`.
    """
    weighted = (
        name
        for name, module in graph.named_modules()
        if isinstance(module, _WEIGHTED) or name == ROOT + WORD_EMBEDDINGS
    )
    return tuple(dict.fromkeys(map(group_of, weighted)))
