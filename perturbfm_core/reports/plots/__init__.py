"""Plots of the HTML pages, as inline images."""
