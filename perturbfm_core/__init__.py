"""PerturbFM: honest benchmarks of perturbation-response prediction.

The library behind the Dagster code location ``perturbfm_assets`` and the command line ``perturbfm``.
`perturbfm_core.pipeline` is the map: one function per stage, from a data set to the leaderboard.
"""

__version__ = "0.1.0"
