"""ExecuTorch: export, quantize, inspect and run .pte files."""
