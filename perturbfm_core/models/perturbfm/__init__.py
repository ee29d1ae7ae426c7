"""PerturbFM v0 to v3: one network on a learned prior, nested configurations of it."""

from perturbfm_core.models.perturbfm import model as _register  # noqa: F401
