"""In silico screening with a fitted run: predictions for any condition with a verdict, and what to measure next."""
