"""Studies: several methods compared on one task."""
