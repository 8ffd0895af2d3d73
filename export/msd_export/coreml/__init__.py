"""Core ML: export, quantize, inspect and run .mlpackage folders."""
