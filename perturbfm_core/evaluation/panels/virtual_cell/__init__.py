"""Panel `virtual_cell`: metrics of cell-eval 0.8.2 and of the Virtual Cell Challenge, as functions on arrays."""
