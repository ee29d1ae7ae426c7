"""Models that run in environments of their own: their worker predicts what the split will ask, and the fit keeps it."""
