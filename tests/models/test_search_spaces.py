"""Declared search spaces of models."""

from __future__ import annotations

import pytest

from perturbfm_core.errors import ModelError
from perturbfm_core.models.base import MODELS, new_model
from perturbfm_core.models.search import Choice, FloatRange, IntRange


@pytest.mark.parametrize(
    "made",
    [
        lambda: FloatRange(1.0, 1.0),
        lambda: FloatRange(0.0, 1.0),
        lambda: IntRange(0, 3, log=True),
        lambda: IntRange(3, 2),
        lambda: Choice(("a",)),
        lambda: Choice(("a", "a")),
    ],
    ids=["empty", "log of 0", "int log of 0", "upside down", "one", "one twice"],
)
def test_a_range_without_room_to_search_is_refused(made):
    with pytest.raises(ModelError, match=r"no range to search|nothing to choose"):
        made()


def scalars(value):
    return list(value) if isinstance(value, tuple | list) else [value]


@pytest.mark.parametrize("name", [n for n, kind in MODELS.items() if kind.search_space])
def test_declared_ranges_are_of_parameters_and_hold_the_defaults(name):
    kind = MODELS.get(name)
    defaults = kind.Params().model_dump()
    assert set(kind.search_space) <= set(defaults)
    assert set(new_model(name).searchable()) <= set(kind.search_space)
    for parameter, dimension in kind.search_space.items():
        if isinstance(dimension, Choice):
            ends = dimension.values
            assert defaults[parameter] in ends
        else:
            ends = (dimension.low, dimension.high)
            assert all(dimension.low <= v <= dimension.high for v in scalars(defaults[parameter]))
            assert dimension.listed == isinstance(defaults[parameter], tuple)
        for value in ends:
            new_model(name, {parameter: [value] if dimension.listed else value})


def test_models_with_parameters_worth_searching_declare_their_ranges():
    assert {n for n, kind in MODELS.items() if kind.search_space} >= {
        *("ridge", "latent_shift", "linear", "knn", "kernel_ridge", "gene_embedding_ridge"),
        *("set_kernel_ridge", "combo_kernel_ridge"),
        *("perturbfm-v0", "perturbfm-v1", "perturbfm-v2", "perturbfm-v3", "perturbfm-v3a"),
    }


def test_options_without_effect_are_not_searched():
    def searched(name, **params):
        return set(new_model(name, params).searchable())

    common = {"lr", "weight_decay", "hidden_dim", "dropout", "direction_weight"}
    graphs = {"adjacency": ["coexpression"]}
    assert searched("perturbfm-v0", **graphs) == searched("perturbfm-v1") == common
    assert searched("perturbfm-v1", **graphs) == common | {"diffusion_steps", "gating_mode"}
    assert searched("perturbfm-v1", **graphs, gating=False) == common | {"diffusion_steps"}
    assert searched("perturbfm-v2", **graphs, graph=False) == common | {"num_bases"}
    assert searched("perturbfm-v3", **graphs) == common | {"diffusion_steps", "gating_mode", "num_bases"}
    assert searched("perturbfm-v2", gate="off") == set()
    assert searched("knn") == {"components", "center", "neighbours"}
    assert searched("knn", gene_features=["go"]) == {"center", "neighbours"}
    assert searched("knn", gene_features=["go", "coexpression"]) == {"components", "center", "neighbours"}
