"""Shared parts of HTML reports: page template, tables, number formats and SVG charts."""
