"""In silico screening with a fitted run: predictions for requested conditions, and suggested experiments."""
