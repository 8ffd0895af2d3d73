"""Methods side by side on one task: the evidence that a way of distilling helps."""
