"""Where an export comes from, for those who get it: the model card, the signature, the hub."""
