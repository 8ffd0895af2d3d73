"""Worker processes that run the measured models, and their protocol with the benchmark."""
