"""On disk: atomic writes, manifests with digests, and where each part of a run lies."""
