"""The engines that a model is measured in, each behind the same session."""
