"""Models: vision encoders, the single-stream fusion classifier, and how folders of them load."""
