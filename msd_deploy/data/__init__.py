"""Data: the readers of every source, and the way from an image and a text to a model's input."""
