"""Exports of a student: written, quantized, and verified against the PyTorch original."""

from msd_export.api import export, load

__all__ = ["export", "load"]
