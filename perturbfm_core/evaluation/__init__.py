"""Scoring: truth and prediction aligned once, metrics and panels by registry, ceilings, floors, the peers' parity cases."""
