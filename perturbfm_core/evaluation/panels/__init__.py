"""Metric panels, one file or folder each.

The file, or the `panel` module of the folder, registers the panel and its metrics.
"""
