"""Differential expression of groups of cells against controls, shared by the panels of several peers."""
