"""The table of scores of a panel: complete or refused, undefined values counted with their reason."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, metric
from perturbfm_core.evaluation.panel import PANELS, add_panel, evaluate
from perturbfm_core.schema import SCORE_COLUMNS
from tests.support.factories import comparison_of
from tests.support.metric_cases import TWO, world


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Comparison], object]], None]:
    """Return a function that adds a metric `extra.odd`, gone after the test."""
    monkeypatch.setattr(METRICS, "_members", dict(METRICS._items))
    monkeypatch.setattr(PANELS, "_members", dict(PANELS._items))
    add_panel("extra", source="here", headline="odd")

    def add(function: Callable[[Comparison], object]) -> None:
        function.__doc__ = "An odd metric."
        register = metric(
            "extra", "odd", direction="max", bounds=(0.0, 1.0), version="1", source="here", undefined="odd"
        )
        register(function)

    return add


def _raises(_: Comparison) -> np.ndarray:
    msg = "division by duck"
    raise ZeroDivisionError(msg)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(_raises, "metric extra.odd failed: ZeroDivisionError: division by duck", id="raises"),
        pytest.param(
            lambda _c: np.zeros(3), "metric extra.odd gave values of shape (3,); expected (2,)", id="shape"
        ),
        pytest.param(
            lambda _c: np.asarray([0.0, np.inf]),
            "metric extra.odd is infinite for 1 of 2 conditions",
            id="infinite",
        ),
        pytest.param(lambda _c: np.asarray(["a", "b"]), "could not convert string to float", id="text"),
    ],
)
def test_a_metric_that_goes_wrong_fails_the_panel(
    extra: Callable[..., None], function: Callable[[Comparison], object], message: str
) -> None:
    extra(function)
    with pytest.raises(MetricError, match=re.escape(message)):
        evaluate(TWO, ["delta", "extra"])


def test_the_cause_of_a_failed_metric_is_kept(extra: Callable[..., None]) -> None:
    extra(_raises)
    with pytest.raises(MetricError, match=r"extra\.odd") as caught:
        evaluate(TWO, ["extra"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_panel_without_its_headline_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PANELS, "_members", dict(PANELS._items))
    add_panel("bare", source="here", headline="nothing")
    with pytest.raises(MetricError, match=r"unknown metric 'bare\.nothing'"):
        evaluate(TWO, ["bare"])


def test_an_unknown_panel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        MetricError, match=r"unknown panel 'dleta' \(did you mean 'delta'\?\); known: .*uncertainty"
    ):
        evaluate(TWO, ["dleta"])


def test_a_metric_without_a_description_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METRICS, "_members", dict(METRICS._items))
    with pytest.raises(MetricError, match=r"metric delta\.mute has no docstring"):
        metric("delta", "mute", direction="max", bounds=(0, 1), version="1", source="here")(
            lambda c: c.predicted
        )


# ---- the table of scores ----------------------------------------------------------------------------------


@pytest.fixture
def table(extra: Callable[..., None]) -> pd.DataFrame:
    """Return the scores of a metric that is 1, undefined, 3 and 5 in conditions of two contexts."""
    rows = [("c", "A"), ("c", "B"), ("d", "A"), ("d", "A+B")]
    extra(lambda _c: np.asarray([1.0, np.nan, 3.0, 5.0]))
    four = comparison_of(np.eye(4), np.eye(4), rows=rows)
    return evaluate(four, ["extra"], strata={"seen": {"d|A+B|||": "2"}}).table()


def _rows(table: pd.DataFrame, scope: str) -> list[tuple[object, ...]]:
    part = table[table["scope"] == scope]
    columns = part[["key", "value", "n", "status", "reason"]].astype(object)
    return [tuple(None if v != v else v for v in row) for row in columns.itertuples(index=False)]


def test_every_condition_is_in_the_table(table: pd.DataFrame) -> None:
    assert _rows(table, "condition") == [
        ("c|A|||", 1.0, 1, "ok", None),
        ("c|B|||", None, 1, "undefined", "odd"),
        ("d|A|||", 3.0, 1, "ok", None),
        ("d|A+B|||", 5.0, 1, "ok", None),
    ]


def test_undefined_conditions_are_counted_and_not_dropped(table: pd.DataFrame) -> None:
    reason = "1 of {} conditions undefined: odd"
    assert _rows(table, "global") == [("all", 3.0, 4, "ok", reason.format(4))]
    assert _rows(table, "context") == [("c", 1.0, 2, "ok", reason.format(2)), ("d", 4.0, 2, "ok", None)]
    assert _rows(table, "perturbation") == [
        ("A", 2.0, 2, "ok", None),
        ("A+B", 5.0, 1, "ok", None),
        ("B", None, 1, "undefined", reason.format(1)),
    ]


def test_strata_hold_the_conditions_that_have_them(table: pd.DataFrame) -> None:
    assert _rows(table, "stratum") == [("seen=2", 5.0, 1, "ok", None)]


def test_the_table_has_the_columns_of_the_schema(table: pd.DataFrame) -> None:
    names = {"run_id", "dataset", "split_hash", "split_kind", "entry", "config_hash", "seed"}
    assert set(table.columns) == set(SCORE_COLUMNS) - names
    assert set(table["direction"]) == {"max"}
    assert set(table["metric_version"]) == {"1"}


def test_a_metric_that_is_undefined_everywhere_has_a_reason_everywhere(extra: Callable[..., None]) -> None:
    extra(lambda c: np.full(len(c), np.nan))
    everywhere = evaluate(TWO, ["extra"]).table()
    assert set(everywhere["status"]) == {"undefined"}
    assert everywhere["value"].isna().all()
    assert everywhere["reason"].notna().all()


@pytest.mark.parametrize("level", ["cell", "condition"])
def test_a_metric_of_cells_is_not_applicable_without_them(
    monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(METRICS, "_members", dict(METRICS._items))
    monkeypatch.setattr(PANELS, "_members", dict(PANELS._items))
    add_panel("extra", source="here", headline="odd")

    @metric("extra", "odd", direction="max", bounds=(0.0, 1.0), version="1", source="here", needs="cells")
    def _odd(c: Comparison) -> np.ndarray:
        """An odd metric."""
        return np.ones(len(c))

    (without,) = evaluate(TWO, ["extra"], level=level).results
    assert (without.status, np.isnan(without.values).all()) == ("not_applicable", True)
    assert "no single cells" in (without.reason or "")
    (with_cells,) = evaluate(world(), ["extra"], level=level).results
    assert with_cells.status == ("ok" if level == "cell" else "not_applicable")
