"""The networks: they fit, they tell perturbations apart, every part learns, and switches do what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import new_model
from perturbfm_core.models.perturbfm.network.featurizer import FIRST_ID, PAD, Featurizer
from perturbfm_core.models.perturbfm.network.sparse_product import DiffusionRows
from perturbfm_core.models.similarity import take
from perturbfm_core.splits.view import Query
from tests.support.factories import query_of
from tests.support.networks import (
    GATINGS,
    QUICK,
    VERSIONS,
    added,
    fitted,
    graph_of,
    prepared,
    rank4,
    screen_view,
)

GENES = [f"g{i}" for i in range(20)]
RING = SideInfo({"ring": graph_of(GENES)})


def r2(mean, truth):
    return 1.0 - float(((truth - mean) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())


# ---- what broke before ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_every_version_fits_clean_targets_of_48_perturbations(name):
    view, table = rank4(n_genes=60)
    side_info = SideInfo({"ring": graph_of([f"g{i}" for i in range(60)])}, {"latent": table})
    params = {"hvg_count": 50} if name == "perturbfm-v3a" else {}
    model = fitted(name, view, side_info, core="none", gate="on", device="cpu", **params)
    assert r2(model.predict(view.query()).mean, view.delta) >= 0.95


@pytest.mark.parametrize("name", VERSIONS[:4])
def test_ids_alone_fit_too(name):
    view, _ = rank4(n_genes=60)
    model = fitted(name, view, core="none", gate="on", device="cpu")
    assert r2(model.predict(view.query()).mean, view.delta) >= 0.95


@pytest.mark.parametrize("name", VERSIONS[:4])
@pytest.mark.parametrize("core", ["none", "process"])
def test_unseen_perturbations_differ_where_their_features_do(name, core):
    view, table = rank4(n=24, n_genes=24, extra=3)
    twin = GeneFeatures(
        "latent",
        np.append(table.genes, "twin"),
        np.concatenate([table.matrix, table.matrix[24:25]]),
    )
    inner = [(np.arange(24) % 3 != j, np.arange(24) % 3 == j) for j in range(3)]
    view = replace(view, inner=inner if core == "process" else [])
    model = fitted(name, view, SideInfo({}, {"latent": twin}), **{**QUICK, "core": core, "epochs": 60})
    requested = [("c", p) for p in ("g24", "g25", "g26", "twin")]
    query = query_of(requested, 24, control=np.repeat(view.control[:1], 4, axis=0))
    mean = model.predict(query).mean
    spread = np.linalg.norm(mean[:3] - mean[:3].mean(axis=0)) / np.linalg.norm(mean[:3])
    assert spread > 0.1
    # The same features, the same prediction.
    np.testing.assert_allclose(mean[3], mean[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("name", VERSIONS)
def test_every_parameter_has_a_gradient_at_the_first_step(name, gating):
    view = screen_view()
    side_info = SideInfo({"ring": graph_of(GENES), "two": graph_of(GENES, "two", shift=2, directed=True)})
    network, data, fitter = prepared(name, view, side_info, gating_mode=gating, dropout=0.0)
    network.train()
    rows = np.arange(len(data.truth))
    torch.manual_seed(0)
    fitter._loss(data, rows)(network, torch.arange(len(rows)))["loss"].backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    # The token of a hidden gene serves pre-training alone.
    assert set(dead) <= {"encoder.hidden_value"}


def test_gradients_reach_the_parts_that_a_version_adds():
    names = {}
    for name in VERSIONS:
        network, _, _ = prepared(name, screen_view(), RING, gating_mode="lowrank")
        names[name] = {n.split(".")[0] for n, _ in network.named_parameters()}
    assert "graphs" not in names["perturbfm-v0"]
    assert names["perturbfm-v1"] - names["perturbfm-v0"] == {"graphs", "coefficients"}
    assert names["perturbfm-v2"] - names["perturbfm-v1"] == {"operator"}
    assert names["perturbfm-v3"] - names["perturbfm-v2"] == {"gene_gate", "channel_gate"}
    assert names["perturbfm-v3a"] - names["perturbfm-v3"] == {"encoder"}


# ---- graphs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS[1:4])
def test_a_graph_without_trust_contributes_nothing(name):
    network, data, _ = prepared(name, screen_view(), RING)
    batch = data.source.batch(np.arange(len(data.source)))
    graph_channels = network.spec.graphs * network.spec.steps
    blank = replace(
        batch,
        spread=[DiffusionRows(0.0 * s.matrix, torch.device("cpu")) for s in batch.spread],
        channels=torch.cat(
            [0.0 * batch.channels[:, :graph_channels], batch.channels[:, graph_channels:]], dim=1
        ),
    )
    with torch.no_grad():
        for weight in (network.head.weight, network.coefficients.weight, network.coefficients.bias):
            weight.normal_(generator=torch.Generator().manual_seed(0))
    assert float((added(network, batch) - added(network, blank)).abs().max()) > 1e-3
    with torch.no_grad():
        network.graphs.trust.fill_(-60.0)
    np.testing.assert_allclose(added(network, batch), added(network, blank), atol=1e-6)


@pytest.mark.parametrize("name", VERSIONS[1:4])
def test_without_graph_the_graph_is_irrelevant(name):
    view = screen_view()
    other = SideInfo({"ring": graph_of(GENES, shift=5)})
    with_graph = [fitted(name, view, k, **QUICK).predict(view.query()).mean for k in (RING, other)]
    without = [fitted(name, view, k, **QUICK, graph=False).predict(view.query()).mean for k in (RING, other)]
    assert not np.array_equal(*with_graph)
    assert np.array_equal(*without)
    assert new_model(name, {"adjacency": ["ring"], "graph": False}).needs().graphs == ()
    assert new_model(name, {"adjacency": ["ring"], "perturbation": False}).needs().graphs == ()
    assert new_model("perturbfm-v0", {"adjacency": ["ring"]}).needs().graphs == ()


def test_gating_modes_are_different_and_can_be_switched_off():
    view = screen_view()
    seen = {}
    for mode in GATINGS:
        network, _, _ = prepared("perturbfm-v1", view, RING, gating_mode=mode)
        seen[mode] = {n for n, _ in network.named_parameters() if ".gate" in n}
    assert seen["none"] == set()
    assert len({frozenset(s) for s in seen.values()}) == len(GATINGS)
    network, _, _ = prepared("perturbfm-v1", view, RING, gating_mode="mlp", gating=False)
    assert network.spec.gating == "none"


# ---- ablations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS[:4])
def test_without_perturbation_all_perturbations_of_a_context_are_one(name):
    view = screen_view()
    side_info = RING if name != "perturbfm-v0" else SideInfo()
    contexts = view.conditions["context_id"].to_numpy()
    for on in (True, False):
        mean = (
            fitted(name, view, side_info, **{**QUICK, "epochs": 40}, perturbation=on)
            .predict(view.query())
            .mean
        )
        spread = max(float(np.ptp(mean[contexts == c], axis=0).max()) for c in np.unique(contexts))
        assert (spread > 1e-2) == on, spread


@pytest.mark.parametrize("name", VERSIONS[:4])
def test_without_control_state_and_context_the_context_is_irrelevant(name):
    view = screen_view()
    query = view.query()
    other = Query(
        query.conditions.assign(covariates='{"batch":"b1"}'), query.genes, query.control[::-1].copy()
    )
    for on in (True, False):
        model = fitted(name, view, RING, **{**QUICK, "epochs": 30}, basal=on, context=on)
        same = np.allclose(model.predict(query).mean, model.predict(other).mean, atol=1e-6)
        assert same != on


def test_without_context_covariates_are_not_read():
    view = screen_view()
    query = view.query()
    other = replace(query, conditions=query.conditions.assign(covariates='{"batch":"b1"}'))
    for on in (True, False):
        model = fitted("perturbfm-v0", view, **{**QUICK, "epochs": 30}, context=on)
        same = np.allclose(model.predict(query).mean, model.predict(other).mean, atol=1e-6)
        assert same != on


@pytest.mark.parametrize("name", ["perturbfm-v2", "perturbfm-v3"])
def test_the_operator_depends_on_the_context_only_if_it_is_contextual(name):
    contextual, _, _ = prepared(name, screen_view(), RING)
    fixed, _, _ = prepared(name, screen_view(), RING, contextual_operator=False)
    assert contextual.operator.mix is not None
    assert contextual.operator.alpha is None
    assert fixed.operator.mix is None
    q = torch.ones(2, contextual.spec.rank)
    context = torch.randn(2, contextual.operator.mix.in_features, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(*contextual.operator(q, context))
    assert torch.allclose(*fixed.operator(q, None))
    assert len(contextual.operator.bases) == 4
    # B0 = I: with the other matrices at zero nothing is changed.
    with torch.no_grad():
        contextual.operator.bases.zero_()
    assert torch.equal(contextual.operator(q, context), q)


def test_a_permuted_control_state_is_the_same_numbers_elsewhere():
    view = screen_view()
    _, measured, _ = prepared("perturbfm-v3", view, RING)
    _, permuted, _ = prepared("perturbfm-v3", view, RING, control_state="permuted")
    a, b = measured.source.inputs.state, permuted.source.inputs.state
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(np.sort(a[:, 0], axis=1), np.sort(b[:, 0], axis=1))
    assert prepared("perturbfm-v2", view, RING)[1].source.inputs.state is None


def test_a_part_at_a_dose_of_0_is_not_read():
    view = screen_view()
    n = view.conditions["pert_id"].astype(str).str.count(r"\+") + 1
    view = replace(view, conditions=view.conditions.assign(doses=["+".join(["10 uM"] * k) for k in n]))
    p = new_model("perturbfm-v3", {**QUICK, "adjacency": ["ring"]}).params
    labels = {f"g{i}|CRISPRi": FIRST_ID + i for i in range(12)}
    featurizer = Featurizer(p, 3, [], list(RING.graphs.values()), labels).fit(view)
    covariates = '{"batch":"b0"}'
    asked = [("g4+g7", "0+10 uM"), ("g7", "10 uM"), ("g4", "0 nM"), ("g4+g7", "0.0+0")]
    query = query_of([("c0", g, "CRISPRi", d, covariates) for g, d in asked], GENES)
    query = replace(query, control=np.repeat(view.control[:1], 4, axis=0))
    read = featurizer.read(query, np.zeros((4, 20), dtype=np.float32))
    assert (read.ids[2:] == PAD).all()
    for values in (read.ids, read.amounts, read.features, read.multi, read.dense):
        np.testing.assert_array_equal(values[0], values[1])
    # Nor does a query of nothing else fail.
    none = featurizer.read(take(query, slice(2, 4)), np.zeros((2, 20), dtype=np.float32))
    assert (none.amounts == 0).all()


def test_doses_and_signs_scale_what_is_read():
    on = screen_view()
    off = replace(on, conditions=on.conditions.assign(modality="CRISPRa"))
    a = prepared("perturbfm-v1", on, RING)[1].source.inputs
    b = prepared("perturbfm-v1", off, RING)[1].source.inputs
    np.testing.assert_array_equal(a.amounts, -b.amounts)
    np.testing.assert_allclose(a.spread[0].toarray(), -b.spread[0].toarray())
