"""Names of layers and of their groups, the same for every target."""

ROOT = "model."
"""In front of the name that a layer or parameter has in the exported graph."""

WORD_EMBEDDINGS = "word_embeddings"
"""The one embedding that is looked up by an input; the others are added whole, as constants."""

CLASSIFIER = "classifier"

# Names are cut behind these: a block, a sublayer, a stem and a head are one group each.
_INDEXED = frozenset({"blocks", "layers"})
_SUBLAYERS = frozenset({"attention", "feed_forward"})
_ENDS = frozenset({"stem", "head"})


def group_of(layer: str) -> str:
    """Return the group that a layer belongs to, for example layers.0.attention.

    Args:
        layer: The module's name, with or without the root: model.layers.0.attention.query.
    """
    parts = layer.removeprefix(ROOT).split(".")
    for position, part in enumerate(parts):
        if part in _SUBLAYERS | _ENDS:
            return ".".join(parts[: position + 1])
        if part in _INDEXED:
            inner = parts[position + 2 : position + 3]
            return ".".join(parts[: position + 2 + (inner[0] in _SUBLAYERS if inner else 0)])
    return ".".join(parts)
