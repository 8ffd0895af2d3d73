"""Readers of data sets: one file per published layout, and the checks that they share."""
