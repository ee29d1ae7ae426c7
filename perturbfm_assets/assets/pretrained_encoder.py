"""Asset `pretrained_encoder`: a cell encoder pre-trained on a split's train rows."""

from typing import Literal

import dagster as dg

from perturbfm_assets.assets.split import split
from perturbfm_assets.partitions import split_of, split_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog, partition_of, rounded
from perturbfm_core import schema
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.pretrained_encoder import default_config, no_cells, pretrain
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.code import code_of


class EncoderKind(dg.Config):
    """Which encoder to pre-train, with default settings."""

    kind: Literal["mlp", "set-transformer"] = "mlp"
    seed: int = 0


@dg.asset(
    partitions_def=split_partitions,
    deps=[split],
    group_name="models",
    kinds={"python", "safetensors"},
    owners=["team:perturbfm"],
    code_version=code_of(pretrain.__module__).digest[:12],
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
    if config.seed < 0:
        message = (
            f"seed {config.seed} is not a whole number of 0 or more; give another in the run configuration"
        )
        raise dg.Failure(message)
    entry = split_of(partition_of(context))
    reason = no_cells(entry.traits)
    if reason is not None:
        return dg.MaterializeResult(
            metadata={"status": "not_applicable", "reason": reason}, check_results=[_check(True)]
        )
    home = store.open(RunLog(context))
    split = SplitFolder(home.split_dir).load(entry.hash)
    ds = dataset_of(home, split)
    settings = default_config(config.kind)
    made = pretrain(home, ds, split, settings, config.seed, RunLog(context))
    record = read_json(made.path / schema.ENCODER_META_FILE)
    training = record["training"]
    return dg.MaterializeResult(
        metadata={
            "status": "ok",
            "object": made.key,
            "reused": made.reused,
            "split_hash": record["split_hash"],
            "kind": config.kind,
            "cells": training["cells"],
            "genes_read": training["genes_read"],
            "best_epoch": training["best_epoch"],
            "validation_score": str(rounded(training["best_score"])),
            "training": dg.MetadataValue.json(rounded(training)),
        },
        check_results=[_check(record["split_hash"] == split.hash)],
        data_version=dg.DataVersion(made.key),
    )


def _check(passed: bool) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=passed, check_name="split_bound")
