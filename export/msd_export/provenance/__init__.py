"""Where an export comes from, for those who get it: the model card and the signature."""
