"""Leakage audit: checks whether a split, or a run on it, uses test information.

A check of a split is a function (data set, split) -> findings, registered in `core.CHECKS`. A check of a run,
in `core.RUN_CHECKS`, also takes the predictions and records of the run. A blocking finding prevents fitting.
A check that cannot be made on the data raises `core.NotApplicable` with the reason.
"""
