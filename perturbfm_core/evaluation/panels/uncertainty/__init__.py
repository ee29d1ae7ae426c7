"""Panel `uncertainty`, and its statistics as functions on arrays."""
