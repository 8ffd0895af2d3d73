"""Distillation: the teacher's cached views, the losses, and the training loop."""
