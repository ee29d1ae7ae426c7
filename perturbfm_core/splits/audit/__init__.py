"""The leakage audit: named findings that say how a split, or a run on it, would fool its reader.

A check of a split is one registered function (data set, split) -> findings, in `core.CHECKS`; a check of a run
also takes what the run records of itself, in `core.RUN_CHECKS`. Blocking findings refuse a fit. A check that the data
cannot answer raises `core.NotApplicable` with the reason.
"""
