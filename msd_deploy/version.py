"""The package's version, in a file that imports nothing: every artifact names it."""

__version__ = "0.1.0"
