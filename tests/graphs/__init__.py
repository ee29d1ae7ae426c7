"""Tests of gene graphs and gene features."""
