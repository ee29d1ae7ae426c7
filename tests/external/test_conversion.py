"""Raw output of external models: hand-computed deltas, and one line for each thing that is wrong with it."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.conversion import convert
from perturbfm_core.external.raw import Raw, is_raw, read_raw
from perturbfm_core.splits.view import Query
from tests.external.raws import ASKED, Model, control_by_hand, write_raw


@pytest.fixture(scope="module")
def ds():
    return simulate(SimulationConfig(name="ext", n_obs=900, n_genes=60, n_contexts=2, n_perts=8, n_combos=4))[
        0
    ]


@pytest.fixture(scope="module")
def model(ds) -> Model:
    return Model(ds)


def refused(raw: Raw, asked: Asked, **options) -> str:
    with pytest.raises(PredictionError) as caught:
        convert(raw, asked, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- values --------------------------------------------------------------------------------------------------


def test_expression_minus_the_real_control(ds, model):
    done = convert(model.raw(), model.asked)
    by_hand = model.expression - control_by_hand(ds, [k.split("|")[0] for k in model.keys])
    assert done.mean.dtype == np.float32
    np.testing.assert_allclose(done.mean, by_hand, atol=2e-6)
    assert (done.control, done.variant, done.var, done.missing_keys, done.warnings) == (
        "real",
        None,
        None,
        [],
        [],
    )
    assert done.counts == {
        "asked": ASKED, "predicted": ASKED, "missing": 0, "skipped": 0, "replaced_by_control": 0, "not_asked": 0,
        "control_rows": 0,
    }  # fmt: skip


def test_the_variant_against_the_models_own_control_is_kept(model):
    real = convert(model.raw_with_own(), model.asked)
    np.testing.assert_allclose(real.mean, model.own + model.delta - model.control, atol=1e-5)
    np.testing.assert_allclose(real.variant, model.delta, atol=1e-5)
    own = convert(model.raw_with_own(), model.asked, control="model")
    np.testing.assert_allclose(own.mean, model.delta, atol=1e-5)
    assert own.control == "model"
    assert set(own.variants) == {"real", "model"}
    np.testing.assert_array_equal(own.variants["real"], real.mean)


def test_deltas_to_either_control(model):
    plain = convert(model.raw(model.delta, kind="delta"), model.asked)
    np.testing.assert_allclose(plain.mean, model.delta, atol=1e-6)
    # An earlier form states the kind as the space.
    old = replace(model.raw(model.delta), meta={"space": "delta"})
    np.testing.assert_array_equal(convert(old, model.asked).mean, plain.mean)
    own = model.raw_with_own(model.delta, kind="delta", control="own")
    done = convert(own, model.asked)
    np.testing.assert_allclose(done.mean, model.delta + model.own - model.control, atol=1e-5)
    np.testing.assert_allclose(done.variant, model.delta, atol=1e-6)
    lost = replace(own, control=None)
    assert "delta to the model's own control, which it does not hold" in refused(lost, model.asked)
    assert convert(lost, model.asked, control="model").variant is None


def test_counts_are_scaled_as_the_data_are(model):
    for depth in (3.0, 2000.0, 1e6):
        linear = np.expm1(model.expression.astype(np.float64))
        counts = linear / linear.sum(axis=1, keepdims=True) * depth
        done = convert(model.raw(counts, space="counts"), model.asked)
        by_hand = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4) - model.control
        np.testing.assert_allclose(done.mean, by_hand, atol=1e-5)


def test_order_of_genes_and_conditions_is_by_name(model):
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(ASKED), rng.permutation(60)
    mixed = model.raw(
        model.expression[np.ix_(rows, columns)],
        keys=np.asarray(model.keys)[rows],
        genes=np.asarray(model.asked.genes)[columns],
    )
    mixed = replace(mixed, var=np.square(mixed.mean))
    done = convert(mixed, model.asked)
    np.testing.assert_array_equal(done.mean, convert(model.raw(), model.asked).mean)
    np.testing.assert_allclose(done.var, np.square(model.expression), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_numbers_of_other_precision(model, tmp_path, dtype):
    folder = write_raw(tmp_path / "out", model.raw(), mean=model.expression.astype(dtype))
    done = convert(read_raw(folder), model.asked)
    np.testing.assert_allclose(done.mean, model.expression - model.control, atol=4e-3)


def test_names_in_other_forms(model):
    def turned(key: str) -> str:
        context, pert, *rest = key.split("|")
        return "|".join([context, "+".join(reversed(pert.split("+"))), *rest])

    whole = convert(model.raw(), model.asked).mean
    for keys in (
        [turned(k) for k in model.keys],
        ["|".join(turned(k).split("|")[:2]) for k in model.keys],
        [f" {k} " for k in model.keys],
    ):
        np.testing.assert_array_equal(convert(model.raw(keys=keys), model.asked).mean, whole)
    assert sum("+" in k for k in model.keys) >= 2


def test_perturbations_alone_name_conditions_of_one_context_only(model):
    of_one = [i for i, k in enumerate(model.keys) if k.startswith("C0|")]
    asked = replace(
        model.asked, conditions=model.asked.conditions.iloc[of_one], control=model.asked.control[of_one]
    )
    perts = [model.keys[i].split("|")[1] for i in of_one]
    done = convert(model.raw(model.expression[of_one], keys=perts), asked)
    np.testing.assert_array_equal(done.mean, convert(model.raw(), model.asked).mean[of_one])
    table = model.asked.known
    several = str(table["pert_id"].value_counts().index[0])
    both = Asked(table, model.asked.genes, np.tile(model.control[:1], (len(table), 1)), target_sum=1e4)
    text = refused(model.raw(model.expression[:1], keys=[several]), both, missing="control")
    assert f"'{several}' fits 2 conditions" in text


def test_a_context_and_a_perturbation_of_several_doses_name_no_condition(model):
    # Names fit by their beginning where doses tell conditions apart: none is taken, all are left out if skipped.
    keys = [f"C0|G10|drug|{dose} uM|" for dose in (0.1, 1, 10)]
    parts = [dict(zip(schema.CONDITION_COLUMNS, k.split("|"), strict=True)) for k in keys]
    table = pd.DataFrame(parts, index=keys)
    asked = Asked(table, model.asked.genes, np.tile(model.control[:1], (3, 1)), known=table, target_sum=1e4)
    text = refused(model.raw(model.expression[:1], keys=["C0|G10"]), asked, missing="control")
    assert "'C0|G10' fits 3 conditions, e.g. ['C0|G10|drug|0.1 uM|'" in text
    raw = model.raw(model.expression[:3], keys=keys, skipped=[{"condition": "C0|G10", "why": "no such drug"}])
    assert "predicts none of the 3 conditions asked for (3 of them skipped" in refused(raw, asked)


def test_rows_that_were_not_asked_for_are_counted(model):
    extra = [model.other_keys[0], model.other_keys[3], "control|C0", "C1|control|||"]
    mean = np.vstack([model.expression[:4], model.expression])
    done = convert(model.raw(mean, keys=[*extra, *model.keys]), model.asked)
    assert (done.counts["not_asked"], done.counts["control_rows"]) == (2, 2)
    np.testing.assert_array_equal(done.mean, convert(model.raw(), model.asked).mean)


# ---- what is missing -------------------------------------------------------------------------------------------


def test_missing_conditions_are_refused_or_counted(model):
    some = model.raw(model.expression[2:], keys=model.keys[2:])
    text = refused(some, model.asked)
    assert f"does not predict 2 of {ASKED} conditions" in text
    assert model.keys[0] in text
    assert "--missing control" in text
    done = convert(some, model.asked, missing="control")
    assert done.missing_keys == model.keys[:2]
    assert not done.mean[:2].any()
    assert done.counts["missing"] == 2
    assert f"2 of {ASKED} test conditions are not predicted" in done.warnings[0]
    for empty in (
        model.raw(model.expression[:0], keys=[]),
        model.raw(model.expression[:1], keys=model.other_keys[:1]),
    ):
        assert "predicts none of the 12 conditions" in refused(empty, model.asked, missing="control")


@pytest.mark.parametrize("form", ["key", "condition", "pert", "ctrl", "text", "one context"])
def test_skipped_conditions_count_as_missing(model, form):
    key = next(k for k in model.keys if "+" not in k.split("|")[1])
    pert = key.split("|")[1]
    why = "unknown to the model: control one-hot used"
    entry = {
        "key": {"key": key, "why": why},
        "condition": {"condition": key, "why": why},
        "pert": {"condition": pert, "why": why},
        "ctrl": {"condition": f"{pert}+ctrl", "why": why},
        "text": key,
        "one context": {"condition": pert, "context": key.split("|")[0], "why": why},
    }[form]
    n = (
        1
        if form in ("key", "condition", "text", "one context")
        else sum(k.split("|")[1] == pert for k in model.keys)
    )
    raw = model.raw(skipped=[entry, {"context": "C0", "dropped_from_training": ["X+ctrl"]}])
    text = refused(raw, model.asked)
    assert f"does not predict {n} of {ASKED} conditions ({n} of them skipped by the worker" in text
    done = convert(raw, model.asked, missing="control")
    assert (done.counts["skipped"], done.counts["missing"]) == (n, n)
    assert any("dropped_from_training" in note for note in done.notes)


# ---- names that are wrong --------------------------------------------------------------------------------------


def test_genes_that_are_wrong(model):
    genes = [str(g) for g in model.asked.genes]
    cut = model.raw(model.expression[:, 1:], genes=genes[1:])
    assert f"lacks 1 of 60 genes, e.g. ['{genes[0]}']" in refused(cut, model.asked)
    assert "repeats 1 gene names" in refused(model.raw(genes=[genes[1], *genes[1:]]), model.asked)
    more = model.raw(np.hstack([model.expression, model.expression[:, :1]]), genes=[*genes, "XYZ"])
    assert "1 genes unknown to the data set, e.g. ['XYZ']" in refused(more, model.asked)
    assert "lacks 60 of 60 genes" in refused(model.raw(genes=[str(i) for i in range(60)]), model.asked)
    text = refused(model.raw(genes=[g.lower() for g in genes]), model.asked)
    assert f"60 of them are there in other case, e.g. '{genes[0].lower()}'" in text


def test_versioned_ensembl_ids_are_named(model):
    ids = [f"ENSG{i:011d}" for i in range(60)]
    asked = replace(model.asked, genes=np.asarray(ids))
    text = refused(model.raw(genes=[f"{g}.{i % 9 + 1}" for i, g in enumerate(ids)]), asked)
    assert "60 of them are there with another version, e.g. 'ENSG00000000000.1'" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "name", ["C9|G01|CRISPRa||", "C0|NOPE|CRISPRa||", "nonsense", "C0|G01|CRISPRi||", "a|b|c"]
)
def test_unknown_conditions(model, name):
    raw = model.raw(keys=[name, *model.keys[1:]])
    text = refused(raw, model.asked, missing="control")
    assert f"has 1 of {ASKED} conditions unknown to the data set, e.g. ['{name}']" in text


def test_repeated_conditions(model):
    pair = next(k for k in model.keys if "+" in k)
    context, pert, *rest = pair.split("|")
    again = "|".join([context, "+".join(reversed(pert.split("+"))), *rest])
    mean = np.vstack([model.expression, model.expression[:1]])
    for name in (pair, again):
        text = refused(model.raw(mean, keys=[*model.keys, name]), model.asked)
        assert f"predicts 1 conditions more than once, e.g. ['{pair}']" in text


# ---- files that are wrong --------------------------------------------------------------------------------------


def test_shapes_that_disagree(model):
    with pytest.raises(PredictionError, match="it is transposed"):
        model.raw(model.expression.T)
    with pytest.raises(PredictionError, match=r"mean is \[12, 59\] for 12 keys and 60 genes"):
        model.raw(model.expression[:, 1:])
    for name in ("var", "control"):
        with pytest.raises(PredictionError, match=name):
            replace(model.raw(), **{name: model.expression[1:]})


def test_files_of_other_forms(model, tmp_path):
    def message(**arrays) -> str:
        with pytest.raises(PredictionError) as caught:
            convert(read_raw(write_raw(tmp_path / "out", model.raw(), **arrays)), model.asked)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "pickled objects" in message(key=np.asarray(model.keys, dtype=object))
    assert "mean must be float32" in message(mean=model.expression.astype(str))
    assert "n_cells" in message(n_cells=np.ones(3, dtype=int))
    # Bytes are text.
    folder = write_raw(tmp_path / "bytes", model.raw(), key=np.asarray(model.keys, dtype="S"))
    np.testing.assert_array_equal(
        convert(read_raw(folder), model.asked).mean, convert(model.raw(), model.asked).mean
    )


def test_a_folder_without_its_files(model, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(PredictionError, match=r"has no raw\.npz"):
        read_raw(folder)
    (folder / "error.json").write_text(json.dumps({"error": "no gene is in\nthe graph"}))
    with pytest.raises(PredictionError, match="the worker failed: no gene is in the graph"):
        read_raw(folder)
    made = write_raw(tmp_path / "made", model.raw())
    (made / "raw.json").unlink()
    with pytest.raises(PredictionError, match="which says what the numbers are"):
        read_raw(made)
    assert convert(read_raw(made, space="log1p"), model.asked).counts["predicted"] == ASKED
    for text in ("{", "[]", '{"space": 3}', '{"format": 2}', '{"skipped": "x"}', '{"a": NaN}'):
        (made / "raw.json").write_text(text)
        with pytest.raises(PredictionError, match=r"raw\.json"):
            read_raw(made)
    (made / "raw.json").unlink()
    (made / "raw.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(PredictionError, match="damaged"):
        read_raw(made, space="log1p")
    assert is_raw(made)
    assert not is_raw(tmp_path / "cells.h5ad")


def test_numbers_of_a_worker_that_failed_after_it_had_written_them(model, tmp_path):
    made = write_raw(tmp_path / "made", model.raw())
    error = made / "error.json"
    for text, says in (
        ('{"error": "half"}', "the worker failed: half"),
        ("{}", r"is newer than its raw\.npz"),
    ):
        error.write_text(text)
        os.utime(error, ns=(0, (made / "raw.npz").stat().st_mtime_ns + 1))
        with pytest.raises(PredictionError, match=says):
            read_raw(made)
    # That of an attempt before it says nothing of them.
    os.utime(error, ns=(0, 0))
    assert convert(read_raw(made), model.asked).counts["predicted"] == ASKED


def test_the_own_control_in_a_file_of_its_own(model, tmp_path):
    raw = model.raw_with_own()
    folder = write_raw(tmp_path / "old", replace(raw, control=None))
    np.save(folder / "model_control.npy", raw.control)
    done = convert(read_raw(folder), model.asked)
    np.testing.assert_array_equal(done.variant, convert(raw, model.asked).variant)
    np.save(folder / "model_control.npy", np.asarray([{}], dtype=object), allow_pickle=True)
    with pytest.raises(PredictionError, match="no plain array"):
        read_raw(folder)


# ---- recorded outputs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_screen():
    config = SimulationConfig(n_obs=3000, n_genes=200, n_contexts=3, n_perts=10, n_combos=6, seed=0)
    return simulate(config)[0]


def asked_of_keys(ds, keys) -> Asked:
    table = condition_table(ds)
    at = table.conditions.index.get_indexer([str(k) for k in keys])
    return Asked.of(ds, Query(table.conditions.iloc[at], ds.genes, table.control["input"][at]))


@pytest.mark.parametrize("name", ["cpa_combo30", "gears_c0", "scgen_ctx", "state_ctxood"])
def test_recorded_outputs(shared_dir, recorded_screen, name):
    folder = shared_dir / "external" / "recorded" / name
    with np.load(folder / "raw.npz") as arrays:
        mean, keys, genes = (arrays[k] for k in ("mean", "key", "genes"))
    assert genes.tolist() == recorded_screen.genes.tolist()
    done = convert(read_raw(folder), asked_of_keys(recorded_screen, keys))
    control = control_by_hand(recorded_screen, [str(k).split("|")[0] for k in keys])
    np.testing.assert_allclose(done.mean, mean - control, atol=5e-6)
    if (folder / "model_control.npy").exists():
        np.testing.assert_allclose(done.variant, mean - np.load(folder / "model_control.npy"), atol=5e-6)
    # Twenty steps do not move it away from its own control.
    assert any("nearly the model's own control" in w for w in done.warnings) == (name == "state_ctxood")


def test_the_recorded_silent_replacement_is_refused(shared_dir, recorded_screen):
    raw = read_raw(shared_dir / "external" / "recorded" / "state_ctx")
    for missing in ("refuse", "control"):
        text = refused(raw, asked_of_keys(recorded_screen, raw.key), missing=missing)
        assert (
            "predicts none of the 4 conditions asked for (4 of them skipped by the worker: unknown to the model"
            in text
        )
