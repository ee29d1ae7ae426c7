"""Hyperparameter search on the validation conditions of a split, stored as a study that can be resumed.

`validation` scores one configuration without reading test rows, `study` stores the trials, `search` runs
them, `workers` runs several in parallel, `record` summarises a study for its report page and for the catalog. `sweep`
runs a declared grid on the same validation, `sweep_grid` reads it, `sweep_folder` keeps its scores and the log of reveals.
`identity` is what the values of either depend on.
"""
