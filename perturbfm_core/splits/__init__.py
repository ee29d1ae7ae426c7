"""Frozen train, validation, calibration and test splits, identified by a content hash."""
