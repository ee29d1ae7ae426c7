"""Parity: the peers' own numbers, record by record. Importing this package registers every kind of case."""

from perturbfm_core.evaluation.parity.harness import KINDS, run_case

__all__ = ["KINDS", "run_case"]
