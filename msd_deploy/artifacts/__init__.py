"""Files on disk: atomic writes, manifests with digests, outputs, and the layout of a run."""
