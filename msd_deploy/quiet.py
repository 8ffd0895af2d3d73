"""Hold back what other packages tell of themselves while they are imported."""

import logging


def quiet_imports() -> None:
    """Let no import tell of CUDA libraries that are not here; called before the first one.

    transformers imports torchao where it is installed (executorch brings it), which warns of each,
    and torch warns of what is deprecated in torchao.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
