"""Hyperparameters chosen on the validation of a split, in a study that is stored and can go on.

`validation` scores one configuration without reading a test row, `study` keeps what was tried, `search` runs
the trials, `workers` runs several at once, `record` turns a study into its page and a catalog entry.
"""
