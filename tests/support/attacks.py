"""Names of the attacks on cells."""

from __future__ import annotations

ON_CELLS = (
    *(
        "cells_drawn",
        "noise_free_tiles",
        "exact_mean",
        "inflated_dispersion",
        "spiked_targets",
        "low_genes_raised",
    ),
    *(
        "all_tied",
        "controls_pasted",
        "genes_left_out",
        "perturbations_left_out",
        "depth_multiplied",
        "depth_thinned",
    ),
)
