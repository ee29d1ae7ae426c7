"""Kernel by gene features: it is a covariance, seen alike from train and from new conditions."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.perturbfm.core.feature_kernel import FeatureKernel, feature_similarity
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.scale import Scale
from perturbfm_core.splits.view import Query
from tests.support.large_screens import screen

ALONE = Kernel(features=1.0)


def space(features: str, scale: Scale | None = None) -> tuple[SimilarityKernel, Query]:
    """Return the kernel of 60 train genes with two features of both signs, or of one, and 20 further genes."""
    case = screen("genes", 60, 40, test=20, seed=3)
    (table,) = case.tables
    values = table.matrix[:, :2] if features == "signed" else np.abs(table.matrix)
    made = SimilarityKernel([GeneFeatures("traits", table.genes, values)], scale or Scale())
    return made.fit(case.view), case.query


def test_cut_off_cosines_alone_are_no_covariance() -> None:
    made, _ = space("signed")
    raw = feature_similarity(made.train, made.train)
    assert np.linalg.eigvalsh(raw)[0] < -0.01


def test_the_kernel_of_train_has_no_negative_variance() -> None:
    made, _ = space("signed")
    values = np.linalg.eigvalsh(made.blocks()(ALONE))
    assert values[0] > -1e-9 * values[-1]


def test_the_positive_directions_are_those_of_the_cosines() -> None:
    made, _ = space("signed")
    raw = feature_similarity(made.train, made.train)
    values, vectors = np.linalg.eigh(raw)
    expected = (vectors * np.maximum(values, 0)) @ vectors.T
    assert made.blocks()(ALONE) == pytest.approx(expected, abs=1e-9)


def test_a_train_condition_is_seen_from_outside_as_from_within() -> None:
    made, _ = space("signed")
    rows = made.train_rows(np.arange(5))
    # Small directions enlarge the rounding of cosines, which depends on the processor.
    assert made.blocks(rows)(ALONE) == pytest.approx(made.blocks()(ALONE)[:5], abs=1e-5)


def test_new_conditions_have_nothing_along_directions_that_were_taken_out() -> None:
    made, query = space("signed")
    values, vectors = np.linalg.eigh(feature_similarity(made.train, made.train))
    outside = vectors[:, values < -1e-6]
    raw = feature_similarity(made.described(query), made.train)
    assert np.abs(raw @ outside).max() > 0.01
    assert np.abs(made.blocks(query)(ALONE) @ outside).max() < 1e-9


def test_features_of_one_sign_are_left_as_they_are() -> None:
    made, query = space("positive")
    assert np.array_equal(made.blocks(query)(ALONE), feature_similarity(made.described(query), made.train))


def test_many_conditions_are_not_decomposed() -> None:
    made, _ = space("signed", Scale(exact=30))
    assert np.array_equal(made.blocks()(ALONE), feature_similarity(made.train, made.train))


def test_each_weighting_of_tables_has_directions_of_its_own() -> None:
    case = screen("genes", 40, 30, test=5, seed=4)
    (table,) = case.tables
    other = GeneFeatures("other", table.genes, table.matrix[:, ::-1] ** 3)
    made = SimilarityKernel([table, other]).fit(case.view)
    kernel = FeatureKernel(made.train, exact=True)
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), ()):
        values = np.linalg.eigvalsh(kernel.between(made.train, made.train, weights))
        assert values[0] > -1e-9 * values[-1]
