"""Pretrained weights: where they lie, how they are read, and models that start from them."""
