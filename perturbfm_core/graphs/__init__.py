"""What is known of genes beside the data: feature tables, graphs, and how a perturbation spreads over them."""
