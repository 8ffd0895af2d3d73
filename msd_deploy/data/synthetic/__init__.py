"""Generated tasks with known dependence on each modality."""
