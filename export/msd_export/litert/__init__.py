"""LiteRT: export, quantize, inspect and run .tflite files."""
