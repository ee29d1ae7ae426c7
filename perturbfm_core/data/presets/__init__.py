"""One module per public collection whose files have one layout."""
