"""The asset `pretrained_encoder`."""

from __future__ import annotations

import dagster as dg

from perturbfm_core.models.perturbfm.encoder.pretraining import PretrainConfig
from perturbfm_core.pipeline import pretrained_encoder as encoders
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.store.artifacts import ArtifactStore
from tests.assets.test_definitions import CONTEXT, alone, checks, metadata

SMALL = PretrainConfig.model_validate(
    {"encoder": {"dim": 4, "hidden_dim": 8}, "loop": {"epochs": 1}, "max_cells": 300, "device": "cpu"}
)


def test_an_encoder_belongs_to_its_split_and_is_the_one_that_a_fit_finds(here, monkeypatch):
    module = here.module("assets.pretrained_encoder")
    monkeypatch.setattr(module, "default_config", lambda kind: SMALL)
    monkeypatch.setattr(encoders, "default_config", lambda kind: SMALL)
    result = alone(here, "pretrained_encoder", CONTEXT["key"])
    assert result.success
    assert checks(result) == {"split_bound": True}
    shown = metadata(result, "pretrained_encoder")
    assert shown["status"] == "ok"
    assert shown["split_hash"] == CONTEXT["hash"]
    assert (shown["kind"], shown["cells"], shown["reused"]) == ("mlp", 300, False)
    assert shown["training"]["curves"]["loss"]
    (made,) = result.asset_materializations_for_node("pretrained_encoder")
    assert made.tags["dagster/data_version"] == shown["object"]
    again = metadata(alone(here, "pretrained_encoder", CONTEXT["key"]), "pretrained_encoder")
    assert (again["object"], again["reused"]) == (shown["object"], True)

    store = ArtifactStore()
    split = encoders_split(store)
    found = encoders.find_encoder(store, "mlp", *split)
    assert found.path == store.object(shown["object"])


def encoders_split(store: ArtifactStore):
    """Return (data, split) of the unseen context."""
    from perturbfm_core.splits.folder import SplitFolder

    split = SplitFolder(store.split_dir).load(CONTEXT["hash"])
    return dataset_of(store, split), split


def test_differences_are_not_applicable(here, monkeypatch):
    module = here.module("assets.pretrained_encoder")
    entry = module.SPLITS[CONTEXT["key"]].model_copy(update={"traits": SplitTraits(controls=False)})
    monkeypatch.setitem(module.SPLITS, CONTEXT["key"], entry)
    result = alone(here, "pretrained_encoder", CONTEXT["key"])
    assert result.success
    assert checks(result) == {"split_bound": True}
    shown = metadata(result, "pretrained_encoder")
    assert shown["status"] == "not_applicable"
    assert "differences only" in shown["reason"]


def test_nothing_waits_for_a_claim_that_outlives_a_killed_run(here):
    """A pool's claim is a row of Dagster's database; the training slot is a lock, which ends with its process."""
    for asset in here.module("definitions").defs.assets:
        # `fit_inputs` is a specification only: nothing computes it.
        if not isinstance(asset, dg.AssetSpec):
            assert asset.op.pool is None
