"""Frozen splits: what is held out, hashed and never regenerated in silence."""
