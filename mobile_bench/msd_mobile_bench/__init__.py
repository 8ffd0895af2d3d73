"""Measuring: latency, memory, size and accuracy of a model in every form it was exported to."""
