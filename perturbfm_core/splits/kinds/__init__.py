"""Split kinds: one module per family; a kind registers itself with the parameters that it takes."""
