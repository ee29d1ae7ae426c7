"""One module per stage; each asset calls one pipeline function."""
