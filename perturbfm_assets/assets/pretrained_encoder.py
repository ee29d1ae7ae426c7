"""Asset `pretrained_encoder`: a cell encoder pre-trained on a split's train rows."""

import dagster as dg

from perturbfm_assets.assets.split import split
from perturbfm_assets.partitions import SPLITS, split_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_core import pipeline, schema
from perturbfm_core.encoders import default_config, no_cells
from perturbfm_core.provenance import numeric_code
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store import read_json


class EncoderKind(dg.Config):
    """Which encoder to pre-train, with default settings."""

    kind: str = "mlp"
    seed: int = 0


@dg.asset(
    partitions_def=split_partitions,
    deps=[split],
    group_name="models",
    kinds={"python", "safetensors"},
    owners=["team:perturbfm"],
    pool="torch",
    code_version=numeric_code()[:12],
    check_specs=[
        dg.AssetCheckSpec(
            "split_bound",
            asset="pretrained_encoder",
            blocking=True,
            description="The encoder names the split whose train rows it has seen.",
        ),
    ],
)
def pretrained_encoder(
    context: dg.AssetExecutionContext, config: EncoderKind, store: StoreResource
) -> dg.MaterializeResult:
    """A cell encoder that has seen train rows and input controls only; no other split may use it."""
    entry = SPLITS[context.partition_key]
    reason = no_cells(entry.traits)
    if reason is not None:
        return dg.MaterializeResult(
            metadata={"status": "not_applicable", "reason": reason}, check_results=[_check(True)]
        )
    home = store.open()
    frozen = SplitFolder(home.split_dir).load(entry.hash)
    ds = pipeline.dataset_of(home, frozen)
    settings = default_config(config.kind)
    made = pipeline.pretrain(home, ds, frozen, settings, config.seed, context.log.info)
    told = read_json(made.path / schema.ENCODER_META_FILE)
    training = told["training"]
    return dg.MaterializeResult(
        metadata={
            "status": "ok",
            "object": made.key,
            "reused": made.reused,
            "split_hash": told["split_hash"],
            "kind": config.kind,
            "cells": training["cells"],
            "genes_read": training["genes_read"],
            "best_epoch": training["best_epoch"],
            "validation_score": str(training["best_score"]),
            "training": dg.MetadataValue.json(training),
        },
        check_results=[_check(told["split_hash"] == frozen.hash)],
        data_version=dg.DataVersion(made.key),
    )


def _check(passed: bool) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=passed, check_name="split_bound")
