"""Models: vision encoders, fusion classifiers, teachers and model folders."""
