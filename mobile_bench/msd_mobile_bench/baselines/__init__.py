"""Published architectures with random weights, which `msd bench` measures beside a run's models."""
