"""Augmentation of training batches: images, words, mixup."""
