"""The code location: merges, nothing else."""

import dagster as dg

from perturbfm_assets.assets.dataset import dataset
from perturbfm_assets.assets.gene_graph import gene_graph
from perturbfm_assets.assets.leaderboard import leaderboard
from perturbfm_assets.assets.metric_panel import metric_panel
from perturbfm_assets.assets.prediction import prediction
from perturbfm_assets.assets.pretrained_encoder import pretrained_encoder
from perturbfm_assets.assets.report import report
from perturbfm_assets.assets.split import split
from perturbfm_assets.assets.trained_model import trained_model
from perturbfm_assets.jobs import (
    benchmark,
    build_graph,
    demo,
    make_dataset,
    refresh_leaderboard,
    verify_split,
)
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.schedules import schedules
from perturbfm_assets.sensors import sensors

defs = dg.Definitions(
    assets=[
        dataset,
        split,
        gene_graph,
        pretrained_encoder,
        trained_model,
        prediction,
        metric_panel,
        report,
        leaderboard,
    ],
    jobs=[demo, benchmark, refresh_leaderboard, make_dataset, verify_split, build_graph],
    schedules=schedules,
    sensors=sensors,
    resources={"store": StoreResource()},
)
