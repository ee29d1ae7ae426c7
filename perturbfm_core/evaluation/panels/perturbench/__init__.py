"""Metrics of PerturBench on arrays: aggregations of cells, metrics and ranks, in its versions V1 and V2."""
