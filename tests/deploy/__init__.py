"""Files under docs/deploy: rendered, checked, and run where their programs are installed."""
