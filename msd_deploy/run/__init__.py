"""One run: its stages, its record in run.json, and its output folder."""
