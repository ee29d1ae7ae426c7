"""Metrics that experiments are planned by: changed genes, their direction, and the strongest perturbations."""
