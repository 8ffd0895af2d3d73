"""ONNX and ORT: export, quantize, inspect and run."""
