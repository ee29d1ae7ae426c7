"""Catalog of data sets, models, gene graphs, gene features and benchmark suites, one YAML file per entry."""
