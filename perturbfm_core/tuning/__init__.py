"""Choosing a model's hyperparameters on the validation of a split, in a study that is stored and can go on.

`validation` scores one configuration without reading a test row, `study` keeps what was tried, `search` runs
the trials, `workers` runs several at once, `record` turns a study into its page and a catalog entry.
"""

from perturbfm_core.tuning.record import Tuning, check_registration, register
from perturbfm_core.tuning.search import tune

__all__ = ["Tuning", "check_registration", "register", "tune"]
