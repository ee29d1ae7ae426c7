"""PerturBench's numbers as pure functions on arrays: aggregations, metrics, ranks; versions V1 and V2."""
