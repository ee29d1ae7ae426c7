"""The export of a split: train rows and input controls only, in the form that workers read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.errors import ExternalError
from perturbfm_core.external.export import export, export_key, write_view
from perturbfm_core.external.request import ahead_of, request_of
from perturbfm_core.external.work import WORKERS
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.factories import grid_rows, screen, simulated, split_one

KINDS = {
    "context": ("context_ood", {"holdout": ["C0"]}, {}),
    "combinations": ("combo_ood", {}, {"folds": 3, "fold": 0}),
    "genes": ("perturbation_ood", {}, {"folds": 3, "fold": 1}),
    "rows": ("iid", {}, {}),
    "transductive": ("context_ood", {"holdout": ["C1"]}, {"transductive": True}),
}


def world(kind: str = "context", **more):
    """Return data, split, train view and request."""
    ds = simulated(n_obs=900, n_genes=20, n_contexts=3, n_perts=6, n_combos=3, **more)
    name, params, spec = KINDS[kind]
    split = split_one(ds, name, params, **spec)
    view = train_view(ds, split)
    return ds, split, view, request_of(ds, split, view)


def written(folder: Path, parts):
    """Return (view, query controls, request) as a worker reads them."""
    write_view(folder, *parts)
    read = [anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("view", "query_controls")]
    return *read, json.loads((folder / "request.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_no_test_or_calibration_row_is_exported(tmp_path, kind):
    ds, split, _, _ = parts = world(kind)
    view, controls, request = written(tmp_path, parts)
    hidden = set(ds.row_ids[split.rows(ds, "test", "calib", "unused")])
    reference = set(ds.row_ids[ds.is_control & ~ds.controls.has_role("input")])
    for table in (view, controls):
        assert not set(table.obs_names) & (hidden | reference)
    fitted = set(ds.row_ids[split.rows(ds, "train", "val")])
    assert set(view.obs_names[~view.obs.is_control]) == fitted
    assert controls.obs.is_control.all()
    asked = {c["context_id"] for c in request["conditions"]}
    assert set(controls.obs.context_id) == asked
    test = ds.conditions.index[np.unique(ds.condition_codes[split.rows(ds, "test")])]
    assert {c["key"] for c in request["conditions"] if c["role"] == "test"} == set(test)


def test_values_stay_sparse_and_are_those_of_the_data(tmp_path):
    ds, _, _, _ = parts = world()
    view, controls, _ = written(tmp_path, parts)
    for table in (view, controls):
        assert sp.issparse(table.X)
        assert table.X.format == "csr"
        assert table.X.dtype == np.float32
        rows = [int(np.flatnonzero(ds.row_ids == name)[0]) for name in table.obs_names[:5]]
        np.testing.assert_array_equal(table.X[:5].toarray(), sp.csr_matrix(ds.expression[rows]).toarray())
        assert list(table.var_names) == [str(g) for g in ds.genes]


def test_the_request_says_who_asks_for_what(tmp_path):
    ds, split, view, _ = parts = world()
    _, _, request = written(tmp_path, parts)
    assert request["format"] == 1
    assert request["space"] == "log1p"
    assert request["seed"] == 0
    assert request["split_hash"] == split.hash
    assert request["data_content_sha256"] == ds.content_sha256
    assert request["perturbations_known"] == sorted(set(view.conditions["pert_id"].astype(str)))
    view_obs, controls_obs = (written(tmp_path, parts)[i].obs for i in (0, 1))
    for obs in (view_obs, controls_obs):
        rows = [int(np.flatnonzero(ds.row_ids == name)[0]) for name in obs.index[:9]]
        for column in ("pert_id", "context_id", "batch_id", "modality", "doses", "covariates"):
            assert obs[column].astype(str).tolist()[:9] == ds.obs[column].iloc[rows].astype(str).tolist()
    (combo,) = [c for c in request["conditions"] if c["pert_id"].count("+")][:1]
    assert combo["genes"] == combo["pert_id"].split("+")
    assert len({c["key"] for c in request["conditions"]}) == len(request["conditions"])


def test_validation_rows_are_those_of_the_split_else_of_its_first_inner_fold(tmp_path):
    ds, split, view, request = parts = world()
    table, _, _ = written(tmp_path, parts)
    origin = request.validation_from
    held = set(table.obs_names[table.obs.fold == "val"])
    assert held
    assert not table.obs.is_control[table.obs.fold == "val"].any()
    if origin == "split":
        assert held == set(ds.row_ids[split.rows(ds, "val")])
    else:
        keys = view.conditions.index[view.inner[0][1]]
        assert held == set(
            ds.row_ids[np.isin(ds.condition_codes, np.flatnonzero(ds.conditions.index.isin(keys)))]
        )


def test_a_view_that_allows_a_test_row_is_refused(tmp_path):
    from dataclasses import replace

    ds, split, view, request = world()
    allowed = view.allowed_rows.copy()
    allowed[split.rows(ds, "test")[:2]] = True
    with pytest.raises(ExternalError, match=r"2 rows of split .* must not be exported"):
        write_view(tmp_path, ds, split, replace(view, allowed_rows=allowed), request)


def test_differences_cannot_be_exported(tmp_path):
    ds = screen(grid_rows(["A", "B", "C", "D"], ["x", "y"], controls=0, reps=2), space="delta")
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    view = train_view(ds, split)
    with pytest.raises(ExternalError, match="has no control rows"):
        write_view(tmp_path, ds, split, view, request_of(ds, split, view))


def test_the_export_is_made_once_and_cannot_be_changed(tmp_path):
    ds, split, view, request = world()
    store = ArtifactStore(tmp_path)
    made = export(store, ds, split, view, request)
    assert made.key == export_key(ds, split)
    assert not made.reused
    assert export(store, ds, split, view, request).reused
    assert (made.path / "view.h5ad").stat().st_mode & 0o777 == 0o444


def test_calibration_is_observed_and_test_is_not(tmp_path):
    ds, split, view, _ = world("genes")
    ahead = ahead_of(ArtifactStore(tmp_path), ds, split, view)
    at, observed = ahead.calibration
    assert set(ahead.request.roles[at]) <= {"calibration"}
    assert observed.shape == (len(at), ds.n_genes)


def test_external_export_writes_a_folder_once(tmp_path):
    size = ("--n-obs", 300, "--n-genes", 20, "--n-contexts", 3, "--n-perts", 5)
    perturbfm("data", "make-synth", "--out", "D", *size)
    held = ("--spec", "context_ood", "--holdout-context", "C0")
    split = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
    options = ("--split", split, "--data", "D", "--out", "view")
    found = perturbfm("external", "export", *options, "--seed", 4, "--json").json
    assert sorted(p.name for p in Path("view").iterdir()) == [
        "query_controls.h5ad",
        "request.json",
        "view.h5ad",
    ]
    request = json.loads(Path("view/request.json").read_text())
    assert request["seed"] == 4
    assert len(request["conditions"]) == found["asked"]
    again = attempt("external", "export", *options)
    assert again.code == 2
    assert "is there already" in again.err
    # By hand, as the docs have it: the folder of the output is made.
    line = [sys.executable, str(WORKERS / "template_worker.py"), "view", "by/hand"]
    subprocess.run(line, check=True, capture_output=True)
    assert sorted(p.name for p in Path("by/hand").iterdir()) == ["raw.json", "raw.npz"]
