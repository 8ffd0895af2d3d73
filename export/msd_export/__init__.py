"""Exported forms of a student: written, quantized, and verified against the PyTorch original."""
