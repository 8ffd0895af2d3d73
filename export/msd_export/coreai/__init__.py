"""Core AI, Apple's runtime after Core ML: export, inspect and run .aimodel assets."""
