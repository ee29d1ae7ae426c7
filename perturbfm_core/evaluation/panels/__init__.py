"""One module per panel; importing this package registers them in the order that reports show."""

from perturbfm_core.evaluation.panels import delta, uncertainty

__all__ = ["delta", "uncertainty"]
