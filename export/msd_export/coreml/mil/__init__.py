"""An interpreter of saved Core ML programs, for machines without Core ML."""
