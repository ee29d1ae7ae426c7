"""The asset `pretrained_encoder`."""

from __future__ import annotations

import dagster as dg
import pytest

from perturbfm_core.models.perturbfm.encoder.pretraining import PretrainConfig
from perturbfm_core.pipeline import pretrained_encoder as encoders
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.asset_runs import CONTEXT, alone, checks, metadata

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


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"kind": "transformer"}, "transformer"),
        ({"seed": -3}, "seed -3 is not a whole number of 0 or more"),
    ],
)
def test_a_wrong_configuration_is_one_line(here, config, said):
    module = here.module("assets.pretrained_encoder")
    run_config = {
        **here.module("jobs").quiet_logs("CRITICAL"),
        "ops": {"pretrained_encoder": {"config": config}},
    }
    # An unknown kind is refused before the launch, as any wrong field is.
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises((dg.DagsterInvalidConfigError, dg.Failure)) as raised,
    ):
        dg.materialize(
            [module.pretrained_encoder],
            partition_key=CONTEXT["key"],
            instance=instance,
            resources={"store": here.module("resources").StoreResource()},
            run_config=run_config,
        )
    assert said in str(getattr(raised.value, "description", None) or raised.value)


def test_differences_are_not_applicable(here, monkeypatch):
    splits = here.module("partitions").SPLITS
    entry = splits[CONTEXT["key"]].model_copy(update={"traits": SplitTraits(controls=False)})
    monkeypatch.setitem(splits, CONTEXT["key"], entry)
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
