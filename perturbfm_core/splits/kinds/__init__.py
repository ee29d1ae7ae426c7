"""One module per family of split kinds; importing this package registers them all."""

from perturbfm_core.splits.kinds import combo, context, covariate, explicit, iid, perturbation

__all__ = ["combo", "context", "covariate", "explicit", "iid", "perturbation"]
