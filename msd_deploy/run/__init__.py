"""One run: its stages, its record in run.json, and what may be written where."""
