"""Panel `virtual_cell`, and the metrics of cell-eval 0.8.2 and the Virtual Cell Challenge as functions on arrays."""
