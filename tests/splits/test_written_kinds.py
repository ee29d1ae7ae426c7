"""Split kinds that users write: whatever fails in them is an error that names the kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perturbfm_core.config import Frozen
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import KINDS, Draft, split_kind
from tests.support.factories import simulated, split_one

DATA = simulated(n_obs=120, n_genes=6, n_contexts=3, n_perts=4)
KEY = str(DATA.conditions.index[0])
AXES: Any = ("perturbation",)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the kinds of a test."""
    _ = len(KINDS)
    for name in ("_members", "_order"):
        monkeypatch.setattr(KINDS, name, dict(getattr(KINDS, name)))


def draft(**changes: Any) -> Draft:
    return Draft(**{"test": [KEY], "params": {}, "ood_axes": AXES, **changes})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda c, s, p: c["gene"], "'mine' fails: KeyError: 'gene'"),
        (lambda c: [], "'mine' fails: TypeError: .*positional argument"),
        (lambda c, s, p: None, "'mine' must return a list of Draft, found NoneType"),
        (lambda c, s, p: draft(), "'mine' must return a list of Draft, found Draft"),
        (lambda c, s, p: [draft(), KEY], "'mine' must return a list of Draft, found str among them"),
        (lambda c, s, p: [], "'mine' proposes no split of these data"),
        (lambda c, s, p: [draft(test=c.index[:1])], "Draft.test must be a list of condition keys, found Index"),
        (lambda c, s, p: [draft(test=[0])], "Draft.test must be a list of condition keys, found 0 among them"),
        (lambda c, s, p: [draft(test=KEY)], "Draft.test must be a list of condition keys, found str"),
        (lambda c, s, p: [draft(test=["C9|Z|||"])], r"Draft.test names 1 conditions .*'C9\|Z\|\|\|'"),
        (lambda c, s, p: [draft(unused=["x"])], "Draft.unused names 1 conditions"),
        (lambda c, s, p: [draft(ood_axes=("gene",))], "Draft.ood_axes must be a tuple of context, .*found"),
        (lambda c, s, p: [draft(ood_axes=["context"])], "Draft.ood_axes must be a tuple of context, .*found"),
        (lambda c, s, p: [draft(params={"x": np.ones(2)})], "Draft.params must be plain JSON"),
        (lambda c, s, p: [draft(params={"x": float("nan")})], "Draft.params must be plain JSON"),
    ],
)  # fmt: skip
def test_what_a_kind_may_not_do_is_said(function: Callable[..., Any], message: str) -> None:
    function.__doc__ = "Hold out something."
    split_kind("mine", Frozen)(function)
    with pytest.raises(SplitError, match="split kind " + message if message[0] == "'" else message) as caught:
        split_one(DATA, "mine", {})
    assert "split kind 'mine'" in str(caught.value)


def test_a_kind_without_a_fault_freezes() -> None:
    def held(conditions: Any, spec: Any, params: Any) -> list[Draft]:
        """Hold out one perturbation."""
        one = conditions["pert_id"].iloc[0]
        keys = conditions.index[conditions["pert_id"] == one].tolist()
        return [draft(test=keys, params={"held": [str(one)]})]

    split_kind("mine", Frozen)(held)
    assert split_one(DATA, "mine", {}).definition.kind == "mine"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (lambda ds: ds.nothing, "split kind 'mine', facts fails: AttributeError"),
        (lambda ds: None, "split kind 'mine': facts must return a dictionary of parameters, found NoneType"),
        (lambda: {"x": 1}, "split kind 'mine', facts fails: TypeError"),
    ],
)
def test_facts_of_a_kind_are_checked(facts: Callable[..., Any], message: str) -> None:
    def held(conditions: Any, spec: Any, params: Any) -> list[Draft]:
        """Hold out one condition."""
        return [draft()]

    split_kind("mine", Frozen, facts)(held)
    with pytest.raises(SplitError, match=message):
        split_one(DATA, "mine", {})
