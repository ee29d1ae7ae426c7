"""Models that run in environments of their own: what they are given, how they run, and how their output is read."""
