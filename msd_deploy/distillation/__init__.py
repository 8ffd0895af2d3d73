"""Distillation: cached teacher predictions, losses, weightings and the training loop."""
