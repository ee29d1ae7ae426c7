"""The parts of Dagster that it calls beta and this package needs; its version is pinned, so they do not change unseen."""

import warnings

_PARTS = ("Function `multi_observable_source_asset`", "Parameter `owners` of initializer `SensorDefinition")


def expect_beta_parts() -> None:
    """Let the use of these parts be no warning at every start."""
    for part in _PARTS:
        warnings.filterwarnings("ignore", part)
