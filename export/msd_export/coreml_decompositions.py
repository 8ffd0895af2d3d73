"""What coremltools' front end does not know of transformers' models, said in what it knows.

CLIP's, SigLIP's and VisualBERT's attention masks are made with these operators.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from msd_deploy.models.fusion import MASKED_SCORE


def coreml_decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return the table for `ExportedProgram.run_decompositions`."""
    aten = torch.ops.aten
    return {
        aten.alias.default: _alias,
        aten.new_ones.default: _new_ones,
        aten.__and__.Tensor: torch.logical_and,
        aten.where.ScalarOther: _where_scalar,
    }


def _alias(tensor: Tensor) -> Tensor:
    return tensor.view(tensor.shape)


def _new_ones(
    like: Tensor, size: list[int], *, dtype: torch.dtype | None = None, **options: object
) -> Tensor:
    return torch.full(size, 1, dtype=dtype or like.dtype)


def _where_scalar(condition: Tensor, chosen: Tensor, other: float) -> Tensor:
    """Fill with a scalar; what is meant as minus infinity stays finite in float16 (no NaN)."""
    return torch.where(condition, chosen, torch.full_like(chosen, max(other, MASKED_SCORE)))
