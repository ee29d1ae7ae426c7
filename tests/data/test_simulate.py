"""The simulator: reproducible, and its truth is what one measures."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from pydantic import ValidationError

from perturbfm_core import schema
from perturbfm_core.config import parse
from perturbfm_core.data.condition import condition_key, parse_key
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.simulate import SimulationConfig, SimulationTruth, simulate
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import ConfigError, DatasetError

SMALL = {"n_obs": 600, "n_genes": 40, "n_contexts": 2, "n_perts": 6, "n_combos": 3}


def small(**changed: object) -> tuple[PerturbDataset, SimulationTruth]:
    return simulate(SimulationConfig(**{**SMALL, **changed}))


def truth_of(truth: SimulationTruth, context: str, pert: str, dose: str = "") -> np.ndarray:
    return truth.log_fold_change[truth.conditions.index(condition_key(context, pert, "CRISPRa", dose))]


# ---- shape and reproducibility ---------------------------------------------------------------------------


def test_shape(synth: PerturbDataset, synth_truth: SimulationTruth) -> None:
    assert (synth.n_obs, synth.n_genes) == (1500, 60)
    assert synth.contexts == ["C0", "C1", "C2"]
    assert synth.obs["batch_id"].cat.categories.tolist() == ["B0", "B1"]
    assert synth.metadata.space == "counts"
    assert synth.values.counts.dtype == np.int32
    assert sp.issparse(synth.expression)
    singles = {p for p in synth.conditions["pert_id"] if "+" not in p}
    pairs = set(synth.conditions["pert_id"]) - singles
    assert (len(singles), len(pairs)) == (8, 4)
    assert all(set(p.split("+")) <= singles for p in pairs)
    assert singles <= set(synth.genes)
    assert sorted(synth_truth.conditions) == synth.conditions.index.tolist()
    assert synth_truth.log_fold_change.shape == (36, 60)


def test_a_quarter_of_every_context_is_control(synth: PerturbDataset) -> None:
    controls = synth.obs.groupby("context_id", observed=True)["is_control"].sum()
    assert controls.tolist() == [125, 125, 125]


def test_every_condition_has_cells(synth: PerturbDataset) -> None:
    n = condition_table(synth).n
    assert n.min() >= 31
    assert n.max() <= 32


def test_same_seed_same_data() -> None:
    (a, truth_a), (b, truth_b) = small(n_batches=2, n_states=3), small(n_batches=2, n_states=3)
    assert a.computed_sha256 == b.computed_sha256
    assert np.array_equal(truth_a.log_fold_change, truth_b.log_fold_change)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"effect_size": 1.0}, {"n_batches": 2}, {"n_states": 2}, {"depth": 500.0}],
    ids=lambda c: next(iter(c)),
)
def test_parameters_change_the_data(changed: dict[str, object]) -> None:
    assert small(**changed)[0].computed_sha256 != small()[0].computed_sha256


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    small()
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_name_is_no_parameter_of_the_data() -> None:
    assert small(name="other")[0].computed_sha256 == small()[0].computed_sha256


# ---- truth -----------------------------------------------------------------------------------------------


def test_truth_correlates_with_measured_deltas() -> None:
    ds, truth = simulate(SimulationConfig(n_obs=6000, n_genes=80, n_contexts=2, n_perts=6, depth=4000.0))
    table = condition_table(ds)
    expected = truth.log_fold_change[[truth.conditions.index(k) for k in table.conditions.index]]
    assert np.corrcoef(expected.ravel(), table.delta["input"].ravel())[0, 1] > 0.7
    own = [np.corrcoef(e, d)[0, 1] for e, d in zip(expected, table.delta["input"], strict=True)]
    other = [
        np.corrcoef(e, d)[0, 1]
        for e, d in zip(np.roll(expected, 4, axis=0), table.delta["input"], strict=True)
    ]
    assert np.median(own) > 0.7
    assert np.median(own) > np.median(other) + 0.3


def test_without_effect_nothing_changes() -> None:
    _, truth = small(effect_size=0.0)
    assert not truth.log_fold_change.any()


def test_perturbed_gene_is_activated_or_repressed(synth_truth: SimulationTruth) -> None:
    _, down = small(modality="CRISPRi")
    for truth, sign in ((synth_truth, 1), (down, -1)):
        direct = []
        for key, change in zip(truth.conditions, truth.log_fold_change, strict=True):
            pert = parse_key(key)["pert_id"]
            if "+" not in pert:
                direct.append(sign * change[truth.genes.index(pert)])
        # Feedback through the network may turn single genes round.
        assert np.mean(np.array(direct) > 0) > 0.8


def gaps_to_the_sum(truth: SimulationTruth) -> np.ndarray:
    """Return how far each pair's effect is from the sum of its singles', relative to that sum."""
    gaps = []
    for key, both in zip(truth.conditions, truth.log_fold_change, strict=True):
        fields = parse_key(key)
        parts = fields["pert_id"].split("+")
        if len(parts) == 2:
            total = sum(truth_of(truth, fields["context_id"], p) for p in parts)
            gaps.append(np.linalg.norm(both - total) / np.linalg.norm(total))
    return np.array(gaps)


def test_combinations_are_not_sums() -> None:
    saturating, interacting, strong = (
        gaps_to_the_sum(small(n_combos=6, interaction=x)[1]) for x in (0.0, 0.5, 2.0)
    )
    assert len(saturating) == 12
    assert saturating.min() > 1e-4
    assert np.median(saturating) < np.median(interacting) < np.median(strong)
    assert np.median(strong) > 0.05


def test_combinations_add_up_without_network_and_interaction() -> None:
    gaps = gaps_to_the_sum(small(edges_per_gene=0, interaction=0.0)[1])
    assert len(gaps) == 6
    assert gaps.max() < 1e-6


def test_doses_act_monotonously() -> None:
    ds, truth = small(doses=(0.1, 1.0, 10.0), n_obs=1200)
    singles = sorted({p for p in ds.conditions["pert_id"] if "+" not in p})
    assert set(ds.conditions["doses"]) == {"0.1", "1", "10", "10+10"}
    for pert in singles:
        j = truth.genes.index(pert)
        strength = [np.linalg.norm(truth_of(truth, "C0", pert, dose)) for dose in ("0.1", "1", "10")]
        assert strength == sorted(strength)
        assert strength[0] < strength[-1] / 2
        assert truth_of(truth, "C0", pert, "0.1")[j] != 0


def test_dose_one_is_the_plain_effect() -> None:
    _, dosed = small(doses=(1.0,), n_combos=0)
    _, plain = small(n_combos=0)
    assert np.array_equal(dosed.log_fold_change, plain.log_fold_change)


def test_context_specificity_separates_contexts() -> None:
    def gap(share: float) -> float:
        _, truth = small(context_specificity=share, n_combos=0)
        first, second = np.split(truth.log_fold_change, 2)
        return float(np.abs(first - second).mean())

    assert gap(0.0) == 0.0
    assert gap(0.5) > 0.01


def test_state_gating_scales_the_response() -> None:
    ungated, gated = (small(n_states=3, state_gating=g)[1] for g in (0.0, 0.8))
    # The gate has mean one over the states: it spreads the cells' responses and keeps their average.
    np.testing.assert_allclose(gated.log_fold_change, ungated.log_fold_change, rtol=1e-5, atol=1e-7)
    a, b = (small(n_states=3, state_gating=g)[0].computed_sha256 for g in (0.0, 0.8))
    assert a != b


@pytest.mark.parametrize(
    ("shift", "low", "high"),
    [pytest.param(0.0, 0.0, 0.1, id="none"), pytest.param(1.0, 0.5, 2.0, id="strong")],
)
def test_batches_shift_genes(shift: float, low: float, high: float) -> None:
    ds, _ = small(n_obs=3000, n_contexts=1, n_batches=2, batch_shift=shift, state_shift=0.0)
    groups = [ds.is_control & (ds.obs["batch_id"] == batch).to_numpy() for batch in ("B0", "B1")]
    first, second = (ds.values.counts[np.flatnonzero(rows)].mean(axis=0) for rows in groups)
    # Of two batches with independent shifts of standard deviation 1 the ratio has one of 1.41.
    seen = (first > 5) & (second > 5)
    assert seen.sum() > 20
    assert low < np.std(np.log(first[seen] / second[seen])) < high


def test_network_is_signed_sparse_and_aligned(synth_truth: SimulationTruth) -> None:
    arrays = synth_truth.arrays()
    source, target = arrays["edge_index"]
    assert arrays["edge_index"].dtype == np.int64
    assert len(source) == synth_truth.network.nnz <= 4 * 60
    assert {-1.0, 1.0} == set(np.sign(arrays["edge_weight"]).tolist())
    expected = [synth_truth.network[t, s] for s, t in zip(source, target, strict=True)]
    np.testing.assert_allclose(arrays["edge_weight"], expected, rtol=1e-6)
    assert arrays["genes"].tolist() == synth_truth.genes
    assert all(a.dtype != object for a in arrays.values())


# ---- parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_contexts", [1, 3])
def test_too_few_cells_names_enough(n_contexts: int) -> None:
    config = {"n_genes": 40, "n_contexts": n_contexts, "n_perts": 10, "n_combos": 5, "n_obs": 12}
    with pytest.raises(
        DatasetError, match=r"12 cells cannot give each of 15 treatments .* n_obs of at least \d+"
    ) as caught:
        simulate(SimulationConfig(**config))
    enough = int(str(caught.value).rsplit(" ", 1)[1])
    ds, _ = simulate(SimulationConfig(**{**config, "n_obs": enough}))
    assert condition_table(ds).n.min() >= 1
    assert len(ds.conditions) == 15 * n_contexts


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"n_perts": 300}, r"n_perts \(300\) must not exceed n_genes \(200\)", id="perts"),
        pytest.param(
            {"n_perts": 3, "n_combos": 4}, r"n_combos \(4\) must not exceed the 3 pairs", id="combos"
        ),
        pytest.param({"doses": (1.0, 1.0)}, "different positive numbers", id="equal-doses"),
        pytest.param({"doses": (0.0,)}, "different positive numbers", id="zero-dose"),
        pytest.param({"n_obs": 0}, "greater than or equal to 1", id="no-cells"),
        pytest.param({"control_fraction": 1.0}, "less than 1", id="controls-only"),
        pytest.param({"colour": 1}, "Extra inputs are not permitted", id="unknown"),
    ],
)
def test_inconsistent_parameters(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(SimulationConfig, changed, "options")


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SimulationConfig().seed = 1


@pytest.mark.parametrize(("n_perts", "n_combos", "combos"), [(7, None, 3), (7, 0, 0), (1, None, 0)])
def test_number_of_pairs(n_perts: int, n_combos: int | None, combos: int) -> None:
    config = SimulationConfig(n_perts=n_perts, n_combos=n_combos)
    assert config.combos == combos
    ds, _ = simulate(config)
    assert ds.conditions["pert_id"].str.contains(schema.COMBO_SEPARATOR, regex=False).sum() == 3 * combos
