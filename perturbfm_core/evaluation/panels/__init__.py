"""One file or folder per panel of metrics; a folder's `panel` module registers the panel and its metrics."""
