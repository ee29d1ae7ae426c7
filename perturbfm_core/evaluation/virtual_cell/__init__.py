"""Metrics of the Virtual Cell Challenge and of cell-eval 0.8.2, as functions on arrays.

Cells come as `CellGroups` (one group per perturbation) beside the control cells they are compared with;
nothing here knows about data sets, splits or files.
"""

from perturbfm_core.evaluation.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.virtual_cell.profiles import FULL, VCC, ControlCells, Sample, profile

__all__ = ["FULL", "VCC", "CellGroups", "ControlCells", "Sample", "profile"]
