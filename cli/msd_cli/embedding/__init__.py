"""Commands for those who embed a model in an app: bundles, test vectors, a demo."""
