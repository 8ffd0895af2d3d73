"""Pretrained weights: their location and files, and models initialized from them."""
