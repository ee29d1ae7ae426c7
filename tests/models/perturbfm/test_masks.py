"""Perturbations that are no genes: features and diffusion of the genes they act on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.masks import PertMasks, read_masks
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import load_model, new_model, save_model
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.gene_graph import missing
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import query_of, simulated, split_all
from tests.support.networks import QUICK, fitted, graph_of, prepared, screen_view
from tests.support.stages import opened

GENES = [f"g{i}" for i in range(20)]
RING = graph_of(GENES)
TABLE = GeneFeatures(
    "t", np.asarray(["g0", "g1", "g2"]), np.asarray([[1, 0], [0, 1], [4, 4]], dtype=np.float32)
)


def masks(**drugs: dict[str, float]) -> PertMasks:
    """Return masks of drugs from {drug: {gene: weight}}."""
    genes = sorted({g for d in drugs.values() for g in d})
    mask = np.asarray([[d.get(g, 0.0) for g in genes] for d in drugs.values()], dtype=np.float32)
    return PertMasks(np.asarray(list(drugs)), np.asarray(genes), mask)


def drug_view() -> Any:
    """Return a screen whose singles g3 and g4 are drugs that act on others, by name of the drug."""
    view = screen_view(pairs=0)
    names = {"g3": "drugA", "g4": "drugB"}
    return replace(view, conditions=view.conditions.assign(pert_id=view.conditions["pert_id"].replace(names)))


# ---- features and sources ------------------------------------------------------------------------------------


def test_features_are_the_weighted_mean_over_targets_that_the_table_has():
    table = masks(
        a={"g0": 1.0, "g1": 3.0}, b={"g2": 0.5, "lost": 9.0}, c={"lost": 1.0}, d={"g0": 1, "g1": -1}
    ).extend(TABLE)
    rows, known = table.rows(["a", "b", "c", "d", "g1"])
    np.testing.assert_allclose(rows, [[0.25, 0.75], [4, 4], [0, 0], [0.5, -0.5], [0, 1]])
    assert known.tolist() == [True, True, False, True, True]


def test_a_perturbation_acts_on_its_targets_or_is_a_gene():
    genes, acts = masks(a={"g0": 1.0, "g1": 3.0}).sources(["a", "g1", "zz"])
    assert genes == ["g0", "g1", "zz"]
    np.testing.assert_allclose(acts.toarray(), [[1, 3, 0], [0, 1, 0], [0, 0, 1]])


def inputs_of(view: Any, known: SideInfo, name: str = "perturbfm-v1") -> Any:
    return prepared(name, view, known)[1].source.inputs


def test_a_mask_of_one_gene_is_that_gene():
    view = screen_view(pairs=0)
    known = SideInfo({"ring": RING}, {"t": TABLE})
    plain = inputs_of(view, known)
    renamed = drug_view()
    alias = masks(drugA={"g3": 1.0}, drugB={"g4": 1.0})
    table = alias.extend(TABLE)
    other = inputs_of(renamed, SideInfo({"ring": RING}, {"t": table}, masks=alias))
    np.testing.assert_allclose(other.features, plain.features, atol=1e-6)
    np.testing.assert_allclose(other.spread[0].toarray(), plain.spread[0].toarray(), atol=1e-6)
    for a, b in zip(other.diffused, plain.diffused, strict=True):
        np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-6)
    without = inputs_of(renamed, known)
    assert not np.allclose(without.spread[0].toarray(), plain.spread[0].toarray())


def test_diffusion_starts_from_the_targets_with_their_weights():
    view = screen_view(pairs=0)
    gene = {g: k for k, g in enumerate(view.conditions["pert_id"][:12])}
    plain = inputs_of(view, SideInfo({"ring": RING}))
    alias = masks(drugA={"g0": 1.0, "g7": 0.5}, drugB={"g4": 1.0})
    other = inputs_of(drug_view(), SideInfo({"ring": RING}, masks=alias))
    T = plain.spread[0].shape[0] // len(view)
    dense = plain.spread[0].toarray().reshape(len(view), T, -1)
    mine = other.spread[0].toarray().reshape(len(view), T, -1)
    expected = dense[gene["g0"]] + 0.5 * dense[gene["g7"]]
    np.testing.assert_allclose(mine[gene["g3"]], expected, atol=1e-6)
    # What a drug acts on is left out of its channels, as a perturbed gene is.
    for step in other.diffused:
        assert not step.toarray()[gene["g3"], [0, 7]].any()


# ---- the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["none", "process"])
def test_unseen_drugs_are_distinguished_by_their_targets(core, tmp_path):
    rng = np.random.default_rng(0)
    view = drug_view()
    table = GeneFeatures("t", np.asarray(GENES), rng.normal(size=(20, 3)).astype(np.float32))
    acts = masks(
        drugA={"g3": 1.0}, drugB={"g4": 1.0}, x={"g15": 1.0}, y={"g16": 1.0, "g17": 2.0}, z={"g15": 2.0}
    )
    known = SideInfo({"ring": RING}, {"t": table}, masks=acts)
    params = {**QUICK, "core": core, "epochs": 30, "pert_masks": "masks.npz"}
    model = fitted("perturbfm-v2", view, known, **params)
    query = query_of([("c0", d, "CRISPRi") for d in ("x", "y", "z")], GENES, control=view.control[[0, 0, 0]])
    mean = model.predict(query).mean
    assert np.abs(mean[0] - mean[1]).max() > 1e-2
    # Features are means: twice the weight on one gene is the same gene.
    blind = fitted("perturbfm-v2", view, known, **{**params, "pert_masks": None}).predict(query).mean
    np.testing.assert_allclose(blind[0], blind[1], atol=1e-6)
    save_model(model, tmp_path)
    assert np.array_equal(load_model(tmp_path).predict(query).mean, mean)
    assert np.array_equal(load_model(tmp_path).predict(query).var, model.predict(query).var)


# ---- files and keys ------------------------------------------------------------------------------------------


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


GOOD = {
    "perturbations": np.asarray(["a", "b"]),
    "genes": np.asarray(["G01", "G02", "G03"]),
    "mask": np.eye(3)[:2],
}


def test_masks_are_read_by_either_name(tmp_path):
    one = read_masks(write(tmp_path / "one.npz", **GOOD))
    two = read_masks(
        write(tmp_path / "two.npz", pert=GOOD["perturbations"], genes=GOOD["genes"], mask=GOOD["mask"] > 0)
    )
    assert one.sha256 == two.sha256
    changed = {**GOOD, "mask": 2 * GOOD["mask"]}
    assert read_masks(write(tmp_path / "three.npz", **changed)).sha256 != one.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.eye(3)}, r"have a mask \(3, 3\) for 2 perturbations and 3 genes; it must be"),
        ({"mask": np.zeros((2, 3))}, "give 'a' no gene; leave it out"),
        ({"mask": np.full((2, 3), np.nan)}, "hold weights that are not finite"),
        ({"mask": np.full((2, 3), "x")}, "'mask' is <U1, not numbers"),
        ({"perturbations": np.asarray(["a", "a"])}, "name a perturbation or a gene twice"),
        ({"genes": np.asarray(["G01", "G02", "G01"])}, "name a perturbation or a gene twice"),
    ],
)
def test_bad_masks_are_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(GraphError, match=message) as error:
        read_masks(write(tmp_path / "m.npz", **{**GOOD, **change}))
    assert "\n" not in str(error.value)


def test_files_that_hold_no_masks_are_refused(tmp_path):
    with pytest.raises(GraphError, match=r"has arrays \['genes'\]; masks need 'perturbations' \[P\]"):
        read_masks(write(tmp_path / "m.npz", genes=GOOD["genes"]))
    with pytest.raises(GraphError, match="do not exist; give the path of an npz"):
        read_masks(tmp_path / "gone.npz")


def test_the_model_key_depends_on_the_content_of_the_masks(tmp_path):
    ds = simulated(n_obs=160, n_genes=20, n_contexts=2, n_perts=6, n_combos=0)
    split = split_all(ds, "perturbation_ood", {}, folds=3)[0]
    keys = []
    for k in (1.0, 2.0):
        write(tmp_path / "m.npz", **{**GOOD, "mask": k * GOOD["mask"]})
        entry = ModelEntry(name="e", description="", model="perturbfm-v2", params={"pert_masks": "m.npz"})
        (config,) = model_configs(entry)
        experiment = opened(ArtifactStore(), ds, split, config)
        known = experiment.side_info
        assert known.masks is not None
        assert known.digests["masks"] == {"perturbations": known.masks.sha256}
        keys.append(experiment.keys.model)
    assert keys[0] != keys[1]


def test_missing_masks_make_an_entry_not_applicable():
    needs = new_model("perturbfm-v1", {"pert_masks": "gone.npz"}).needs()
    assert "needs the perturbation masks 'gone.npz'" in (missing(needs) or "")
    assert new_model("perturbfm-v1", {"pert_masks": "x", "perturbation": False}).needs().masks is None
