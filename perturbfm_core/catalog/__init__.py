"""The catalog: one YAML file per data set, model entry, gene graph, table of gene features and suite."""
