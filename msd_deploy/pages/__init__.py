"""What every HTML report shares: page frame, tables, number formats and SVG charts."""
