"""Option ``--borrow``: where effects come from, what is refused, what a run, its keys, the audit and the board say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.cli.model_options import configured
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.errors import GraphError, SplitError
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.donors import borrow, open_donor
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.opening import open_experiment
from perturbfm_core.pipeline.trained_model import made_of
from perturbfm_core.splits.audit.borrowed import borrowed_record, borrowed_test_measurements
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.audit.run import FitRecord, RunEvidence, RunRecords, TestOverlap
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning.sweep_grid import sweep_cells
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.factories import screen

GENES = [f"G{i}" for i in range(12)]
PERTS = [f"P{i}" for i in range(10)]


def made(name: str, seed: int, contexts: tuple[str, ...] = ("k",), prefix: str = "") -> PerturbDataset:
    """Return a screen whose effects are the same in all screens, with noise of its own."""
    effect = {p: np.random.default_rng(i).normal(size=len(GENES)) for i, p in enumerate(PERTS)}
    rows = [(p, c, {"modality": "CRISPRi"}) for c in contexts for p in PERTS for _ in range(2)]
    rows += [("control", c) for c in contexts for _ in range(6)]
    noise = np.random.default_rng(seed).normal(scale=0.1, size=(len(rows), len(GENES)))
    X = np.stack([4 + effect.get(r[0], np.zeros(len(GENES))) for r in rows]) + noise
    ids = [f"{prefix or name}-{i}" for i in range(len(rows))]
    return screen(rows, X=X, genes=GENES, row_ids=ids, name=name, space="log1p")


@dataclass(frozen=True)
class Home:
    """A store with three screens, and a split of one of them."""

    store: ArtifactStore
    target: PerturbDataset
    split: FrozenSplit


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("borrow")
    store = ArtifactStore(path, path / "splits")
    target = made("target", 0)
    for ds in (target, made("donor", 1, ("k", "m")), made("other", 2, ("m",))):
        import_dataset(store, ds)
    target = open_dataset(store.dataset("target"))
    held = SplitSpec(kind="perturbation_ood", params={"holdout": ["P0", "P1", "P2"]}, val_frac=0)
    return Home(store, target, freeze(target, held)[0])


@pytest.fixture
def here(home, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home.store.home)
    return home


def experiment(home: Home, model: str = "transfer_mean", **params):
    (config,) = model_configs(ModelEntry(name="e", description="", model=model, params=params))
    return open_experiment(home.store, home.target, home.split, config)


# ---- names of donors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "context", "n"),
    [("donor", None, 40), ("donor:m", "m", 20), ("data/donor", None, 40), ("data/donor:k", "k", 20)],
)
def test_a_donor_is_a_data_set_or_one_context_of_it(here, name, context, n):
    donor, found = open_donor(here.store, name)
    assert (donor.name, found) == ("donor", context)
    effects = borrow(here.store, here.target, here.split, name)
    assert effects.perts == tuple(PERTS)
    assert (donor.condition_codes >= 0).sum() == 40


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "no data set called"),
        ("donor:x", "has no context 'x'"),
        ("nothing:k", "no data set called"),
    ],
)
def test_an_unknown_donor_is_refused_in_one_line(here, name, said):
    with pytest.raises(GraphError) as refused:
        borrow(here.store, here.target, here.split, name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


# ---- honesty -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["target", "target:k", "data/target"])
def test_a_data_set_cannot_borrow_from_itself(here, name):
    with pytest.raises(SplitError, match=r"is the data set 'target' itself .* borrow from another screen"):
        borrow(here.store, here.target, here.split, name)


def copy_of(ds: PerturbDataset, name: str, keep: np.ndarray, scale: float = 1.0) -> PerturbDataset:
    """Return some rows of a data set under another name, with all expression (expm1) scaled."""
    X = np.log1p(np.expm1(ds.expression[keep]) * scale)
    values = Values(expression=X.astype(np.float32))
    return PerturbDataset(
        ds.obs.iloc[keep],
        ds.genes,
        values,
        ds.metadata.model_copy(update={"name": name, "content_sha256": None}),
    )


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_own_test_rows_in_another_data_set_are_a_leak(here, scale):
    keep = np.arange(here.target.n_obs) != 5
    import_dataset(here.store, copy_of(here.target, f"copy{int(scale)}", np.flatnonzero(keep), scale))
    with pytest.raises(SplitError, match="holds the test conditions' own measurements"):
        borrow(here.store, here.target, here.split, f"copy{int(scale)}")


def test_rows_of_the_same_names_with_other_values_are_stated_only(here):
    import_dataset(here.store, made("namesakes", 7, prefix="target"))
    record = borrow(here.store, here.target, here.split, "namesakes").record
    assert (record.overlap.rows, record.overlap.same_values) == (6, 0)


@pytest.mark.parametrize("context", ["k", "elsewhere"])
@pytest.mark.parametrize("keep", [slice(None), slice(0, 60, 2)])
def test_own_test_rows_under_other_ids_are_a_leak(here, context, keep):
    copy = copy_of(
        here.target, f"renamed-{context}-{keep.step or 1}", np.arange(here.target.n_obs)[keep], scale=2.0
    )
    obs = copy.obs.assign(context_id=context)
    obs.index = [f"{i}-1-batch0" for i in obs.index]
    renamed = PerturbDataset(obs, copy.genes, copy.values, copy.metadata)
    import_dataset(here.store, renamed, overwrite=True)
    found = "3 of 6" if keep.step else "6 of 6"
    with pytest.raises(
        SplitError, match=f"own measurements: {found} compared test rows of 'target' are there"
    ):
        borrow(here.store, here.target, here.split, renamed.name)


SCALES = {
    "z-scores": lambda x: (x - x.mean(axis=0)) / x.std(axis=0),
    "values of .99": lambda x: 0.99 * x,
    "genes scaled": lambda x: x * np.linspace(0.1, 3, x.shape[1]),
    "genes scaled before the logarithm": lambda x: np.log1p(np.expm1(x) * np.linspace(0.1, 3, x.shape[1])),
}


# No expression is negative, as z-scores are.
@pytest.mark.parametrize(
    ("form", "delta_only"),
    [(form, only) for form in SCALES for only in (False, True) if only or form != "z-scores"],
)
def test_own_test_rows_at_other_scales_of_the_genes_are_a_leak(here, form, delta_only):
    own = here.target
    keep = np.flatnonzero(own.condition_codes >= 0) if delta_only else np.arange(own.n_obs)
    X = SCALES[form](np.asarray(own.expression, dtype=np.float64)).astype(np.float32)
    order = np.random.default_rng(0).permutation(keep)
    obs = own.obs.iloc[order].assign(context_id=pd.Categorical(["elsewhere"] * len(order)))
    obs.index = [f"a{i}" for i in range(len(order))]
    changes = {"space": "zscore", "control_policy": "none"} if delta_only else {}
    named = own.metadata.model_copy(update={"name": "copy", "content_sha256": None, **changes})
    values = Values(delta=X[order]) if delta_only else Values(expression=X[order])
    with pytest.raises(SplitError, match=r"6 of 6 compared test rows of 'target' are there"):
        borrowed_record(own, here.split, PerturbDataset(obs, own.genes, values, named), None, "copy")


@pytest.mark.parametrize("seed", range(4))
def test_another_screen_at_other_scales_is_no_leak(here, seed):
    other = made(f"again{seed}", 10 + seed)
    keep = np.flatnonzero(other.condition_codes >= 0)
    X = np.asarray(other.expression, dtype=np.float64)[keep]
    for form in SCALES.values():
        named = other.metadata.model_copy(
            update={"space": "zscore", "control_policy": "none", "content_sha256": None}
        )
        donor = PerturbDataset(
            other.obs.iloc[keep], other.genes, Values(delta=form(X).astype(np.float32)), named
        )
        record = borrowed_record(here.target, here.split, donor, None, "again")
        assert (record.overlap.measured, record.overlap.same_profiles) == (3, 0)


def sparse(name: str, n_genes: int) -> PerturbDataset:
    """Return the same counts of few or many genes under ids of its own."""
    rows = [(p, "k", {"modality": "CRISPRi"}) for p in ("P0", "P1") for _ in range(6)] + [
        ("control", "k")
    ] * 6
    X = np.log1p(np.random.default_rng(0).poisson(0.3, (len(rows), n_genes)))
    genes = [f"G{i}" for i in range(n_genes)]
    return screen(
        rows, X=X, genes=genes, row_ids=[f"{name}{i}" for i in range(len(rows))], name=name, space="log1p"
    )


def test_sparse_rows_that_agree_by_chance_are_no_leak():
    """Counts of a few genes agree in many cells; many genes agree in copies alone."""
    held = SplitSpec(kind="perturbation_ood", params={"holdout": ["P0"]}, val_frac=0)
    few, many = sparse("a", 12), sparse("a", 400)
    overlap = borrowed_record(few, freeze(few, held)[0], sparse("b", 12), None, "b").overlap
    assert (overlap.compared, overlap.same_profiles) == (0, 0)
    with pytest.raises(SplitError, match="6 of 6 compared test rows"):
        borrowed_record(many, freeze(many, held)[0], sparse("b", 400), None, "b")


def test_rows_are_compared_once_for_a_split(here, monkeypatch):
    first = borrow(here.store, here.target, here.split, "donor").record
    monkeypatch.setattr("perturbfm_core.splits.audit.borrowed._overlap", None)
    assert borrow(here.store, here.target, here.split, "donor").record == first


def test_what_the_donor_has_measured_is_said_before_the_fit(here):
    lines = []
    borrow(here.store, here.target, here.split, "donor", lines.append)
    assert lines[0].startswith(
        "warning: effects of 'donor' were read, which has measured 3 of 3 test perturbations"
    )


def test_own_train_rows_alone_are_no_leak(here):
    own = np.flatnonzero(~here.target.obs["pert_id"].isin(["P0", "P1", "P2"]).to_numpy())
    import_dataset(here.store, copy_of(here.target, "trainrows", own))
    record = borrow(here.store, here.target, here.split, "trainrows").record
    assert record.overlap.measured == 0


@pytest.mark.parametrize(("name", "same"), [("donor", 3), ("donor:m", 0), ("other", 0)])
def test_the_record_says_what_the_donor_has_of_the_test(here, name, same):
    e = experiment(here, borrow=[name])
    (record,) = [r for r in made_of(e.side_info) if r.what == "borrowed"]
    assert record.overlap == TestOverlap(perturbations=3, measured=3, same_context=same, compared=6)
    evidence = RunEvidence(records=RunRecords(made=(record,)))
    (said,) = [f for f in audit(here.target, here.split, evidence) if f.name == "borrowed_test_measurements"]
    assert (said.severity, "3 of 3 test perturbations" in said.message) == ("warning", True)
    assert [f.message for f in e.findings if f.name == said.name] == [said.message]


@pytest.mark.parametrize(
    "changes",
    [
        {"content_sha256": None},
        {"overlap": TestOverlap(perturbations=3, measured=3, rows=4, same_values=4)},
        {"overlap": TestOverlap(perturbations=3, measured=3, compared=4, same_profiles=1)},
    ],
)
def test_the_audit_blocks_a_run_that_read_its_own_measurements(here, changes):
    record = FitRecord(what="borrowed", name="d", rows="external", content_sha256="0" * 64)
    given = {k: here.target.content_sha256 if v is None else v for k, v in changes.items()}
    evidence = RunEvidence(records=RunRecords(made=(record.model_copy(update=given),)))
    found = borrowed_test_measurements(here.target, here.split, evidence)
    assert "blocking" in {f.severity for f in found}


# ---- identity ----------------------------------------------------------------------------------------------


def test_the_donor_is_in_the_keys(here):
    keys = [
        experiment(here, borrow=b).keys.model for b in (["donor"], ["donor:m"], ["other"], ["other", "donor"])
    ]
    assert len(set(keys)) == 4
    assert experiment(here, borrow=["donor"]).keys.model == keys[0]
    # The same name with other content.
    e = experiment(here, borrow=["other"])
    import_dataset(here.store, made("other", 3, ("m",)), overwrite=True)
    changed = experiment(here, borrow=["other"])
    assert changed.keys.model != e.keys.model
    assert changed.config.config_hash == e.config.config_hash


@pytest.mark.parametrize("model", ["knn", "gene_embedding_ridge", "kernel_ridge", "perturbfm-v0"])
def test_models_of_gene_features_read_the_donor_and_are_the_same_without(here, model):
    plain, lent = experiment(here, model), experiment(here, model, borrow=["donor"])
    assert "borrow" not in plain.config.params
    assert lent.config.params["borrow"] == ["donor"]
    assert "borrowed" not in plain.side_info.digests
    assert list(lent.side_info.digests["borrowed"]) == ["donor"]
    assert lent.keys.model != plain.keys.model


@pytest.mark.parametrize("model", ["transfer_ridge", "knn"])
def test_the_option_changes_the_name_of_the_entry_both_ways(model):
    plain = ModelEntry(name="e", description="", model=model)
    lent = configured(plain, {"borrow": ["donor"]})
    assert lent.name.startswith("e-")
    assert lent.params["borrow"] == ["donor"]
    back = configured(replace_params(plain, borrow=["donor"]), {"borrow": []})
    assert back.name.startswith("e-")
    assert configured(plain, {}).name == "e"


def replace_params(entry: ModelEntry, **params) -> ModelEntry:
    """Return an entry with other parameters."""
    return entry.model_copy(update={"params": params})


def test_a_grid_may_list_donors():
    base = ModelEntry(name="e", description="", model="transfer_mean")
    cells = sweep_cells(base, [{"borrow": [["donor"], ["donor", "other"], []]}])
    assert [c.entry.params.get("borrow", []) for c in cells] == [["donor"], ["donor", "other"], []]


# ---- the command line --------------------------------------------------------------------------------------


def test_a_run_says_that_it_uses_other_screens(here):
    spec = ("--data", "data/target", "--no-bounds", "--spec", "perturbation_ood", *held("P0", "P1", "P2"))
    name = perturbfm("splits", "create", *spec).values["split_hash"]
    lent = perturbfm(
        "train", "transfer_mean", "--split", name, "--borrow", "other", "--borrow", "donor:m", warns=True
    )
    perturbfm("train", "control_only", "--split", name)
    run = Path(lent.values["run_dir"])
    record = json.loads((run / "config.json").read_text())
    assert list(record["side_info"]["borrowed"]) == ["donor:m", "other"]
    assert [f["name"] for f in record["audit"] if f["name"].startswith("borrowed")] == [
        "borrowed_test_measurements"
    ]
    perturbfm("leaderboard", "refresh")
    sql = "SELECT entry, uses_other_screens AS u FROM runs ORDER BY entry"
    rows = perturbfm("leaderboard", "sql", sql, "--json").json
    assert [(r["entry"].partition("-")[0], r["u"]) for r in rows] == [
        ("control_only", False),
        ("transfer_mean", True),
    ]
    shown = perturbfm("leaderboard", "show", "--metric", "delta.rmse").out
    assert f"uses other screens: {record['entry']}" in shown
    wide = perturbfm("leaderboard", "show", "--metric", "delta.rmse", "--json").json
    assert [r["entry"] for r in wide if r["uses_other_screens"]] == [record["entry"]]
    csv = perturbfm("leaderboard", "show", "--metric", "delta.rmse", "--csv").out
    assert csv.splitlines()[0].endswith(",uses_other_screens")
    audited = attempt("splits", "audit", name, "--run", run)
    assert "borrowed_test_measurements warning" in audited.out
    for argv, said in (
        (("--borrow", "target"), "is the data set 'target' itself"),
        ((), "give --borrow DATASET"),
    ):
        refused = attempt("train", "transfer_ridge", "--split", name, *argv)
        assert refused.code != 0
        assert said in refused.err
        assert refused.err.count("\n") == 1


def held(*perts: str) -> list[str]:
    """Return the options that hold perturbations out."""
    return [x for p in perts for x in ("--holdout-perturbation", p)]
