"""Split kinds, one module per family, each registered with its parameters."""
