"""Data: the readers of every source, and the way from a picture and a text to a model's input."""
