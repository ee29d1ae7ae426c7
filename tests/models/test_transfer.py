"""Baselines on borrowed effects: gains by overlap, nothing lost with unrelated donors, alignment, directions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.direction import OFF, ON, UNKNOWN, direction_of
from perturbfm_core.graphs.donor import DonorEffects, directions_of, rows_of
from perturbfm_core.graphs.donor_effects import check_directions, check_genes, effects_of
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.models.base import load_model, new_model, save_model
from perturbfm_core.splits.freeze import freeze
from tests.benchmarks.claims import measuring as m
from tests.support.factories import query_of, screen, view_of
from tests.support.screen_pairs import gain_of, knowledge, lent, pair, shuffled, unrelated

DONOR = {"borrow": ("donor",)}
SEEDS = (0, 1)
CELLS = 15
FOLDS = SplitSpec(kind="perturbation_ood", folds=4, val_frac=0, calib_frac=0)


# ---- gains, and nothing lost -------------------------------------------------------------------------------


@cache
def cases(seed: int) -> list[m.Case]:
    """Return two folds of the screen that borrows, which is the same whatever the donor."""
    target, _ = pair(seed, 1.0, CELLS)
    return [m.case(target, s) for s in freeze(target, FOLDS)[:2]]


@cache
def without(model: str, seed: int, fold: int) -> m.Run:
    """Return the run of a model that borrows nothing."""
    return replace_keys(
        m.run(cases(seed)[fold], model, **({"gate": "off"} if model != "ridge" else {})), f"{seed} "
    )


@cache
def runs(overlap: float, order: str = "true") -> dict[str, m.Run]:
    """Return the runs of each model, pooled over two pairs of screens and two folds each; its test genes are unseen."""
    out: dict[str, list[m.Run]] = {"ridge": [], "transfer_mean": [], "transfer_ridge": []}
    for seed in SEEDS:
        _, donor = pair(seed, overlap, CELLS)
        donor = shuffled(donor, seed) if order == "shuffled" else donor
        donor = unrelated(seed, CELLS) if order == "unrelated" else donor
        for fold, on in enumerate(cases(seed)):
            known = knowledge(on.ds, donor=donor)
            out["ridge"].append(without("ridge", seed, fold))
            for name in ("transfer_mean", "transfer_ridge"):
                out[name].append(replace_keys(m.run(on, name, 0, known, **DONOR), f"{seed} "))
    return {name: m.pooled(found) for name, found in out.items()}


def replace_keys(run: m.Run, prefix: str) -> m.Run:
    """Return a run whose conditions are told from those of other pairs of screens."""
    return m.Run([prefix + k for k in run.keys], run.values, training=run.training)


@pytest.mark.parametrize("model", ["transfer_mean", "transfer_ridge"])
@pytest.mark.parametrize("overlap", [0.5, 1.0])
def test_effects_of_the_same_genes_beat_ridge_on_unseen_genes(model, overlap):
    found = runs(overlap)
    for metric in (m.RAW, m.NO_TARGET):
        # The target's own gene is not all that is gained.
        gain, error = gain_of(found[model], found["ridge"], metric)
        assert gain - 1.96 * error > 0


@pytest.mark.parametrize("model", ["transfer_mean", "transfer_ridge"])
@pytest.mark.parametrize(("overlap", "order"), [(0.0, "true"), (1.0, "shuffled"), (1.0, "unrelated")])
def test_other_genes_and_unrelated_donors_change_nothing(model, overlap, order):
    found = runs(overlap, order)
    for metric in (m.RAW, m.NO_TARGET):
        gain, error = gain_of(found[model], found["ridge"], metric)
        assert abs(gain) < max(2 * error, 0.01)


@pytest.mark.parametrize(("order", "least", "most"), [("true", 0.1, 1.0), ("shuffled", -0.02, 0.02)])
def test_perturbfm_weighs_the_donor(order, least, most):
    _, donor = pair(0, 1.0, CELLS)
    on = cases(0)[0]
    known = knowledge(on.ds, donor=shuffled(donor) if order == "shuffled" else donor)
    plain, with_donor = (
        without("perturbfm-v0", 0, 0),
        m.run(on, "perturbfm-v0", 0, known, gate="off", **DONOR),
    )
    assert least < gain_of(with_donor, plain, m.RAW)[0] < most
    weights = with_donor.training["core"]["members"]["all"]
    assert ("transfer_ridge" in weights) or order == "shuffled"
    assert "transfer_ridge" not in plain.training["core"]["members"]["all"]


def test_no_gain_from_an_entry_that_borrows_nothing_beyond_the_mean():
    on = cases(0)[0]
    mean = np.repeat(on.view.delta.mean(axis=0)[None], 2, axis=0)
    for name in ("transfer_mean", "transfer_ridge"):
        model = new_model(name)
        model.fit(on.view, 0)
        asked = on.view.subset(np.arange(len(on.view)) < 2).query()
        np.testing.assert_allclose(model.predict(asked).mean, mean, atol=1e-6)


# ---- values by hand ----------------------------------------------------------------------------------------


def donor_of(rows: dict[tuple[str, int], list[float]], name: str = "donor", **fields) -> DonorEffects:
    """Return a donor of given effects by (perturbation, direction)."""
    effects = np.asarray(list(rows.values()), dtype=np.float32)
    return DonorEffects(
        name=name,
        content_sha256="0" * 64,
        perts=tuple(p for p, _ in rows),
        direction=np.asarray([d for _, d in rows], dtype=np.int8),
        effects=effects,
        measured=fields.pop("measured", np.ones(effects.shape[1], dtype=np.bool_)),
        directions=frozenset({UNKNOWN}),
        **fields,
    )


EFFECTS = {(g, UNKNOWN): list(np.random.default_rng(i).normal(size=4)) for i, g in enumerate("ABCDE")}


def fitted(name: str, view, *donors: DonorEffects, **params):
    model = new_model(name, {"borrow": [d.name for d in donors], **params})
    model.side_info = SideInfo(donors={d.name: d for d in donors})
    model.fit(view, 0)
    return model


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_the_factor_is_that_of_least_squares(scale):
    own = np.asarray([1.0, -2.0, 0.5, 3.0])
    delta = np.stack([own + scale * np.asarray(EFFECTS[g, UNKNOWN]) for g in "ABC"])
    model = fitted("transfer_mean", view_of([("x", g) for g in "ABC"], delta), donor_of(EFFECTS))
    assert model.training["borrowed"]["donor"] == {
        "factor": pytest.approx(scale, rel=1e-4),
        "train_conditions": 3,
        "of": 3,
    }
    found = model.predict(query_of([("x", "D"), ("x", "D+E"), ("x", "Z")], model.genes)).mean
    mean = np.mean([EFFECTS[g, UNKNOWN] for g in "ABC"], axis=0)
    base = delta.mean(axis=0)
    np.testing.assert_allclose(found[0], base + scale * (EFFECTS["D", UNKNOWN] - mean), rtol=1e-4, atol=1e-5)
    both = np.asarray(EFFECTS["D", UNKNOWN]) + EFFECTS["E", UNKNOWN]
    np.testing.assert_allclose(found[1], base + scale * (both - mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[2], base, rtol=1e-5, atol=1e-6)


def test_without_centring_the_effect_alone_is_scaled():
    delta = np.stack([0.5 * np.asarray(EFFECTS[g, UNKNOWN]) for g in "AB"])
    measured = np.asarray([True, True, False, True])
    lent_ = donor_of({k: [*v[:2], 0.0, v[3]] for k, v in EFFECTS.items()}, measured=measured)
    model = fitted("transfer_mean", view_of([("x", g) for g in "AB"], delta), lent_, center="none")
    found = model.predict(query_of([("x", "D"), ("x", "Z")], model.genes)).mean
    np.testing.assert_allclose(found[0][measured], 0.5 * lent_.effects[3][measured], rtol=1e-4)
    np.testing.assert_allclose(found[0][2], delta.mean(axis=0)[2], rtol=1e-5)
    np.testing.assert_allclose(found[1], delta.mean(axis=0), rtol=1e-5)


def test_a_donor_of_the_opposite_sign_or_of_noise_gets_no_negative_factor():
    delta = np.stack([-np.asarray(EFFECTS[g, UNKNOWN]) for g in "ABC"])
    model = fitted("transfer_mean", view_of([("x", g) for g in "ABC"], delta), donor_of(EFFECTS))
    assert model.training["borrowed"]["donor"]["factor"] == 0.0


def test_each_donor_has_a_factor_of_its_own():
    first, second = donor_of(EFFECTS), donor_of({k: v[::-1] for k, v in EFFECTS.items()}, "second")
    delta = np.stack(
        [np.asarray(EFFECTS[g, UNKNOWN]) * 0.5 + 2.0 * np.asarray(EFFECTS[g, UNKNOWN][::-1]) for g in "ABCD"]
    )
    model = fitted("transfer_mean", view_of([("x", g) for g in "ABCD"], delta), first, second)
    factors = {k: v["factor"] for k, v in model.training["borrowed"].items()}
    assert factors == {"donor": pytest.approx(0.5, rel=1e-3), "second": pytest.approx(2.0, rel=1e-3)}


@pytest.mark.parametrize("alpha", [0.5, 50.0])
def test_transfer_ridge_from_the_mean_is_that_of_scikit_learn(alpha):
    delta = np.random.default_rng(9).normal(size=(4, 4))
    lent_ = donor_of(EFFECTS)
    view = view_of([("x", g) for g in "ABCD"], delta)
    model = fitted("transfer_ridge", view, lent_, start="mean", alphas=(alpha,))
    Z, known = lent_.features.rows(list("ABCDE"))
    assert known.all()
    Z = (Z - Z[:4].mean(axis=0)) / np.sqrt(Z[:4].var(axis=0).sum())
    expected = Ridge(alpha=alpha).fit(Z[:4], delta).predict(Z[4:])
    np.testing.assert_allclose(
        model.predict(query_of([("x", "E")], model.genes)).mean, expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("transfer_mean", {}),
        ("transfer_mean", {"center": "none"}),
        ("transfer_ridge", {}),
        ("transfer_ridge", {"start": "mean"}),
        ("knn", {"neighbours": (1,)}),
        ("gene_embedding_ridge", {}),
    ],
)
def test_a_saved_model_predicts_the_same_without_its_donor(tmp_path, name, params):
    view = view_of([("x", g) for g in "ABCD"], np.random.default_rng(3).normal(size=(4, 4)))
    model = fitted(name, view, donor_of(EFFECTS), **params)
    save_model(model, tmp_path)
    query = query_of([("x", "E"), ("x", "A+E"), ("x", "Z")], model.genes)
    np.testing.assert_array_equal(load_model(tmp_path).predict(query).mean, model.predict(query).mean)


# ---- alignment ---------------------------------------------------------------------------------------------


def names(kind: str, n: int) -> list[str]:
    return [f"ENSG{i:011d}" if kind == "ensembl" else f"GENE{i}" for i in range(n)]


def test_effects_are_aligned_by_name():
    rows = [("control", "k"), ("A", "k"), ("A", "k"), ("B", "k")]
    X = np.asarray([[1, 1, 1], [2, 1, 1], [4, 1, 1], [1, 1, 5]], dtype=np.float32)
    donor = screen(rows, X=X, genes=["g1", "g2", "g3"], space="log1p")
    effects = effects_of(donor, None, np.asarray(["g3", "gX", "g1"]), "donor")
    assert effects.perts == ("A", "B")
    np.testing.assert_allclose(effects.effects, [[0, 0, 2], [4, 0, 0]], atol=1e-6)
    assert effects.measured.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (names("symbol", 8), names("ensembl", 8), "0 of 8 genes"),
        (names("ensembl", 9), names("symbol", 8), "0 of 9 genes"),
        (names("symbol", 8), ["GENE0", *names("ensembl", 8)], "1 of 8 genes"),
        (names("symbol", 5), [f"{g}_other" for g in names("symbol", 5)], "0 of 5 genes"),
        (names("ensembl", 5), [f"{g}.4" for g in names("ensembl", 5)], "0 of 5 genes"),
    ],
)
def test_genes_of_other_names_are_refused_in_one_line(ours, theirs, said):
    rows = [("control", "k"), ("A", "k")]
    with pytest.raises(GraphError) as refused:
        check_genes(screen(rows, genes=ours, name="mine"), screen(rows, genes=theirs), "donor")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_perturbed_genes_named_in_another_way_are_refused():
    ours = screen([("control", "k"), ("GATA1", "k")])
    theirs = screen([("control", "k"), ("ENSG00000102145", "k")])
    with pytest.raises(GraphError, match="0 of 1 perturbed genes"):
        check_genes(ours, theirs, "donor")
    # A screen of other genes is none of another kind.
    check_genes(ours, screen([("control", "k"), ("KLF1", "k")]), "donor")


# ---- directions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "direction"),
    [
        *(
            (x, OFF)
            for x in ("CRISPRi", "crispr-i", "ko", "KO", "Cas13d", "shRNA", "degron", "inhibitor", "siRNA")
        ),
        *((x, ON) for x in ("CRISPRa", "crispra", "overexpression", "ORF", "activation", "CRISPR-a")),
        *((x, UNKNOWN) for x in ("", "drug", "something")),
    ],
)
def test_directions_of_modalities(modality, direction):
    assert direction_of(modality) == direction


def with_modalities(rows: list[tuple[str, str]], name: str = "screen"):
    return screen([("control", "k"), *((p, "k", {"modality": m}) for p, m in rows)], name=name)


@pytest.mark.parametrize("other", ["ko", "Cas13d", "shRNA", "degron", "inhibitor"])
def test_all_that_switches_off_is_borrowed_for_crispri(other):
    target, donor = (
        with_modalities([("A", "CRISPRi"), ("B", "CRISPRi")]),
        with_modalities([("A", other), ("B", other)]),
    )
    effects = lent(target, donor)
    check_directions(target, effects)
    assert effects.of(target.conditions)[1].all()
    assert set(effects.features.genes) == {"A", "B"}


@pytest.mark.parametrize(
    ("ours", "theirs"), [("CRISPRi", "CRISPRa"), ("overexpression", "ko"), ("CRISPRa", "degron")]
)
def test_effects_of_the_other_direction_are_not_borrowed(ours, theirs):
    target = with_modalities([("A", ours), ("B", ours)], "mine")
    effects = lent(target, with_modalities([("A", theirs), ("B", theirs)]))
    assert not effects.of(target.conditions)[1].any()
    with pytest.raises(GraphError, match="another direction are not borrowed"):
        check_directions(target, effects)
    both = lent(target, with_modalities([("A", theirs), ("A", ours), ("B", theirs)]))
    check_directions(target, both)
    assert both.of(target.conditions)[1].tolist() == [True, False]
    assert both.features.genes.tolist() == ["A"]


def test_a_gene_perturbed_in_both_directions_has_no_row_in_the_table():
    rows = [("A", "CRISPRi"), ("A", "CRISPRa"), ("B", "CRISPRa"), ("C", "ko")]
    target = with_modalities(rows)
    directions, by_gene = directions_of(target.conditions)
    assert directions == {OFF, ON}
    assert by_gene["A"] == {OFF, ON}
    effects = lent(target, with_modalities([*rows, ("B", "ko"), ("D", "ko")]))
    assert set(effects.features.genes) == {"B", "C"}
    # By condition they are told apart.
    assert effects.of(target.conditions)[1].all()


@pytest.mark.parametrize(
    ("pert", "direction", "rows"),
    [("A", ON, [0]), ("A+B", ON, [2]), ("A+C", ON, [0, 3]), ("A+D", ON, []), ("A", OFF, [])],
)
def test_combinations_are_their_own_effect_or_the_sum_of_their_parts(pert, direction, rows):
    position = {("A", ON): 0, ("B", ON): 1, ("A+B", ON): 2, ("C", ON): 3}
    assert rows_of(position, pert, direction) == rows


# ---- identity ----------------------------------------------------------------------------------------------


def test_the_digest_changes_with_all_that_is_borrowed():
    plain = donor_of(EFFECTS)
    digest = SideInfo(donors={"d": plain}).digests["borrowed"]["d"]
    others = [
        replace(plain, content_sha256="1" * 64),
        replace(plain, effects=plain.effects + 1),
        replace(plain, directions=frozenset({ON})),
        replace(plain, measured=np.asarray([True, True, True, False])),
    ]
    assert len({digest, *(d.sha256 for d in others)}) == 5
    assert "borrowed" not in SideInfo().digests
