"""Every column, key and file name that crosses a file, written once.

Also the array types, so that signatures say what they hold.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]
StrArray = NDArray[np.str_]

Level = Literal["cell", "condition"]
Space = Literal["log1p", "counts", "delta", "zscore"]
Fold = Literal["train", "val", "calib", "test", "unused"]
Direction = Literal["max", "min"]
PredictionKind = Literal["delta", "expression"]
# How counts are drawn of a point prediction: see `evaluation.count_generators`.
CountGenerator = Literal["multinomial", "negative_binomial", "redraw", "scaled"]
DEFAULT_GENERATOR: Final[CountGenerator] = "multinomial"

DATASET_SCHEMA_VERSION: Final = 1
SPLIT_SCHEMA_VERSION: Final = 1
RUN_SCHEMA_VERSION: Final = 2
MODEL_SCHEMA_VERSION: Final = 1

# Rows of a data set
ROW_ID: Final = "row_id"
PERT_ID: Final = "pert_id"
CONTEXT_ID: Final = "context_id"
BATCH_ID: Final = "batch_id"
IS_CONTROL: Final = "is_control"
MODALITY: Final = "modality"
DOSES: Final = "doses"
COVARIATES: Final = "covariates"
WEIGHT: Final = "weight"
PERT_GENES: Final = "pert_genes"
PERT_DOSES: Final = "pert_doses"
CONDITION: Final = "condition"

OBS_COLUMNS: Final = (PERT_ID, CONTEXT_ID, BATCH_ID, IS_CONTROL, MODALITY, DOSES, COVARIATES)
CONDITION_COLUMNS: Final = (CONTEXT_ID, PERT_ID, MODALITY, DOSES, COVARIATES)

CONTROL: Final = "control"
COMBO_SEPARATOR: Final = "+"

FOLDS: Final[tuple[Fold, ...]] = ("train", "val", "calib", "test", "unused")
SPACES: Final[tuple[Space, ...]] = ("log1p", "counts", "delta", "zscore")
PREDICTION_KINDS: Final[tuple[PredictionKind, ...]] = ("delta", "expression")
# Spaces whose values already are differences: no control rows are needed.
DELTA_SPACES: Final = ("delta", "zscore")

# Files of the artifacts
META_FILE: Final = "meta.json"
NPZ_FILE: Final = "data.npz"
ZARR_FILE: Final = "data.zarr"
COUNTS_FILE: Final = "counts.npz"
TRUTH_FILE: Final = "truth.npz"

CONFIG_FILE: Final = "config.json"
SPLIT_HASH_FILE: Final = "split_hash.txt"
MODEL_FILE: Final = "model.safetensors"
MODEL_META_FILE: Final = "model.json"
CALIBRATOR_FILE: Final = "calibrator.safetensors"
CALIBRATOR_META_FILE: Final = "calibrator.json"
PREDICTIONS_FILE: Final = "predictions.npz"
METRICS_FILE: Final = "metrics.json"
SCORES_FILE: Final = "scores.parquet"
CALIBRATION_FILE: Final = "calibration.json"
TRAINING_FILE: Final = "training.json"
REPORT_FILE: Final = "report.html"
RECORDS_FILE: Final = "audit.json"
GRAPH_FILE: Final = "graph.npz"
ENCODER_FILE: Final = "encoder.safetensors"
ENCODER_META_FILE: Final = "encoder.json"
RUN_FILES: Final = (
    CONFIG_FILE,
    SPLIT_HASH_FILE,
    PREDICTIONS_FILE,
    METRICS_FILE,
    SCORES_FILE,
    CALIBRATION_FILE,
    REPORT_FILE,
)

# scores.parquet, one row per value
SCORE_COLUMNS: Final = (
    "run_id",
    "dataset",
    "split_hash",
    "split_kind",
    "entry",
    "config_hash",
    "seed",
    "panel",
    "metric",
    "metric_version",
    "scope",
    "key",
    "value",
    "n",
    "direction",
    "status",
    "reason",
)
SCOPES: Final = ("global", "perturbation", "context", "stratum", "condition")
COVERAGE_LEVELS: Final = (0.5, 0.8, 0.9, 0.95)
