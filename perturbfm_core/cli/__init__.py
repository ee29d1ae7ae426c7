"""The command line: thin verbs over `perturbfm_core.pipeline`."""
