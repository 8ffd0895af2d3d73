"""The report of distillation runs: distillation.json and a self-contained HTML page."""
