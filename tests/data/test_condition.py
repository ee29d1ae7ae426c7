"""Perturbation names, covariates and condition keys in canonical form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbfm_core import schema
from perturbfm_core.data.condition import (
    canonical_covariates,
    canonical_pert,
    condition_codes,
    condition_key,
    distinct_genes,
    escape,
    keys_of,
    parse_covariates,
    parse_key,
    pert_genes,
    typed_pert,
    unescape,
)
from perturbfm_core.data.obs import make_obs
from perturbfm_core.errors import DatasetError

# Texts dense in the two characters that the key escapes, and in their escaped forms.
FIELD = st.one_of(st.text(), st.text("|%257Cc+ ", max_size=12))
NAME = st.text(
    st.characters(exclude_characters="+", categories=["L", "N", "P"]), min_size=1, max_size=8
).filter(lambda name: name != schema.CONTROL)


# ---- keys ------------------------------------------------------------------------------------------------


@given(st.tuples(FIELD, FIELD, FIELD, FIELD, FIELD))
def test_key_round_trip(fields: tuple[str, ...]) -> None:
    key = condition_key(*fields)
    assert key.count("|") == 4
    assert tuple(parse_key(key).values()) == fields


@given(st.tuples(FIELD, FIELD), st.tuples(FIELD, FIELD))
def test_different_conditions_have_different_keys(a: tuple[str, str], b: tuple[str, str]) -> None:
    assert (condition_key(*a) == condition_key(*b)) == (a == b)


@given(FIELD)
def test_escape_round_trip(field: str) -> None:
    assert "|" not in escape(field)
    assert unescape(escape(field)) == field


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        pytest.param(("K562", "A+B", "CRISPRa", "1+1", ""), "K562|A+B|CRISPRa|1+1|", id="plain"),
        pytest.param(("a|b", "50%", "", "", ""), "a%7Cb|50%25|||", id="escaped"),
        pytest.param(("%7C", "A", "", "", ""), "%257C|A|||", id="looks-escaped"),
    ],
)
def test_key_text(fields: tuple[str, ...], key: str) -> None:
    assert condition_key(*fields) == key
    assert parse_key(key) == dict(zip(schema.CONDITION_COLUMNS, fields, strict=True))


@pytest.mark.parametrize("key", ["A", "c|A|m|d", "c|A|m|d|v|more", ""])
def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(DatasetError, match=r"is not a condition key \(context\|perturbation"):
        parse_key(key)


# ---- perturbations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "options", "expected"),
    [
        pytest.param("A", {}, ("A", ""), id="single"),
        pytest.param(" A ", {}, ("A", ""), id="blanks"),
        pytest.param("A+B", {}, ("A+B", ""), id="sorted"),
        pytest.param("B+A", {}, ("A+B", ""), id="unsorted"),
        pytest.param("B + A", {}, ("A+B", ""), id="blanks-inside"),
        pytest.param("C+A+B", {}, ("A+B+C", ""), id="three"),
        pytest.param("control", {}, ("control", ""), id="control"),
        pytest.param("control", {"doses": ["5"]}, ("control", ""), id="control-has-no-dose"),
        pytest.param("A+control", {}, ("A", ""), id="combination-with-control"),
        pytest.param("control+A", {"doses": ["1", "2"]}, ("A", "2"), id="dose-of-the-kept-part"),
        pytest.param("control+control", {}, ("control", ""), id="control-twice"),
        pytest.param("A+NT", {"control": "NT"}, ("A", ""), id="own-control-label"),
        pytest.param("NT", {"control": "NT"}, ("control", ""), id="own-control-label-alone"),
        pytest.param("control", {"control": None}, ("control", ""), id="no-control-label"),
        pytest.param("A+control", {"control": None}, ("A", ""), id="no-control-label-combination"),
        pytest.param("B_A", {"separators": "_"}, ("A+B", ""), id="underscore"),
        pytest.param("B,A;C", {"separators": ",;"}, ("A+B+C", ""), id="several-separators"),
        pytest.param("B-A", {"separators": "^-]"}, ("A+B", ""), id="separators-with-meaning-in-a-pattern"),
        pytest.param("B-A", {}, ("B-A", ""), id="hyphen-is-a-name"),
        pytest.param("B_A", {"separators": ""}, ("B_A", ""), id="no-separator"),
        pytest.param("KIAA1804", {"aliases": {"KIAA1804": "MAP3K21"}}, ("MAP3K21", ""), id="alias"),
        pytest.param("Z+B", {"aliases": {"Z": "A"}}, ("A+B", ""), id="alias-before-sorting"),
        pytest.param("Z+B", {"aliases": {"Z": "A+C"}}, ("A+B+C", ""), id="alias-of-two"),
        pytest.param(
            "Z+B", {"aliases": {"Z": "A+C"}, "doses": ["1", "2"]}, ("A+B+C", "1+2+1"), id="alias-of-two-dose"
        ),
        pytest.param("A+B", {"aliases": {"A": "B", "B": "A"}}, ("A+B", ""), id="alias-swap"),
        pytest.param("A+NT", {"aliases": {"NT": "control"}}, ("A", ""), id="alias-of-the-control"),
        pytest.param("B+A", {"doses": ["2", "1"]}, ("A+B", "1+2"), id="doses-follow-their-parts"),
        pytest.param("B+A", {"doses": ["3"]}, ("A+B", "3+3"), id="one-dose-for-all"),
        pytest.param("B+A", {"doses": ["", "1"]}, ("A+B", "1+"), id="one-dose-unknown"),
        pytest.param("B+A", {"doses": ["", ""]}, ("A+B", ""), id="no-dose-known"),
        pytest.param("A", {"doses": ["10 uM"]}, ("A", "10 uM"), id="unit"),
    ],
)
def test_canonical_pert(label: str, options: dict, expected: tuple[str, str]) -> None:
    assert canonical_pert(label, **options) == expected


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        pytest.param("", {}, r"'' has an empty or repeated part", id="empty"),
        pytest.param("A+", {}, r"'A\+' has an empty or repeated part", id="empty-part"),
        pytest.param("A+A", {}, r"'A\+A' has an empty or repeated part", id="repeated"),
        pytest.param("A+Z", {"aliases": {"Z": "A"}}, "empty or repeated part", id="repeated-by-alias"),
        pytest.param("A+B", {"doses": ["1", "2", "3"]}, "has 2 parts but 3 doses", id="too-many-doses"),
        pytest.param("A", {"doses": []}, "has 1 parts but 0 doses", id="no-doses"),
        pytest.param("control", {"control": "NT"}, "the name of control rows", id="reserved-name"),
        pytest.param("A+control", {"control": "NT"}, "the name of control rows", id="reserved-part"),
        pytest.param("A_A", {"separators": "_"}, r"check the separator \('_'\)", id="other-separator"),
    ],
)
def test_malformed_perturbations_are_refused(label: str, options: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        canonical_pert(label, **options)


@given(st.lists(NAME, min_size=1, max_size=4, unique=True), st.randoms(use_true_random=False))
def test_order_of_parts_does_not_matter(names: list[str], random) -> None:
    pairs = [(name, str(i)) for i, name in enumerate(names)]
    pert, doses = canonical_pert("+".join(n for n, _ in pairs), [d for _, d in pairs])
    random.shuffle(pairs)
    assert canonical_pert("+".join(n for n, _ in pairs), [d for _, d in pairs]) == (pert, doses)
    assert dict(zip(pert.split("+"), doses.split("+"), strict=True)) == dict(pairs)


@given(st.lists(NAME, min_size=1, max_size=4, unique=True))
def test_canonical_form_is_a_fixed_point(names: list[str]) -> None:
    pert, doses = canonical_pert("+".join(names), ["1"])
    assert canonical_pert(pert, doses.split("+")) == (pert, doses)


@pytest.mark.parametrize(
    ("pert", "genes"),
    [("control", []), ("A", ["A"]), ("A+B", ["A", "B"])],
    ids=["control", "single", "pair"],
)
def test_genes_of_a_pert(pert: str, genes: list[str]) -> None:
    assert pert_genes(pert) == genes


def test_distinct_genes() -> None:
    assert distinct_genes(["B+A", "control", "C", "A"]) == ["A", "B", "C"]


# ---- covariates ------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1), max_size=3))
def test_covariates_round_trip(covariates: dict[str, str]) -> None:
    text = canonical_covariates(covariates)
    assert parse_covariates(text) == covariates
    assert canonical_covariates(dict(reversed(covariates.items()))) == text


def test_covariates_text() -> None:
    assert canonical_covariates({"time": "6 h", "sex": "f"}) == '{"sex":"f","time":"6 h"}'
    assert canonical_covariates({"time": ""}) == canonical_covariates({}) == ""


# ---- numbering -------------------------------------------------------------------------------------------


def _obs(rows: list[tuple[str, str, str]]):
    context, pert, dose = zip(*rows, strict=True)
    return make_obs(
        {"context_id": context, "pert_id": pert, "doses": dose}, [f"r{i}" for i in range(len(rows))]
    )


def test_condition_codes() -> None:
    obs = _obs([("b", "A", "1"), ("a", "control", ""), ("a", "A", "2"), ("b", "A", "1"), ("a", "A", "10")])
    conditions, codes = condition_codes(obs)
    assert conditions.index.tolist() == ["a|A||10|", "a|A||2|", "b|A||1|"]
    assert list(conditions.columns) == list(schema.CONDITION_COLUMNS)
    assert codes.tolist() == [2, -1, 1, 2, 0]
    assert keys_of(conditions).tolist() == conditions.index.tolist()


@given(st.lists(st.tuples(*[st.sampled_from(["a", "b|", "c%"])] * 3), min_size=1, max_size=12))
def test_condition_codes_number_every_row(rows: list[tuple[str, str, str]]) -> None:
    conditions, codes = condition_codes(_obs(rows))
    assert conditions.index.tolist() == sorted({condition_key(c, p, "", d) for c, p, d in rows})
    assert [conditions.index[k] for k in codes] == [condition_key(c, p, "", d) for c, p, d in rows]


def test_codes_of_reordered_rows(rng: np.random.Generator) -> None:
    rows = [(c, p, "") for c in "ab" for p in ("control", "A", "B")]
    order = rng.permutation(len(rows))
    conditions, codes = condition_codes(_obs(rows))
    again, moved = condition_codes(_obs([rows[i] for i in order]))
    assert again.index.tolist() == conditions.index.tolist()
    assert moved.tolist() == codes[order].tolist()


@pytest.mark.parametrize(
    ("text", "pert"),
    [("(+)-JQ1", "(%2B)-JQ1"), ("A+(+)-JQ1", "(%2B)-JQ1+A"), ("B+A", "A+B"), ("(%2B)-JQ1", "(%2B)-JQ1")],
)
def test_a_typed_name_may_have_a_plus_sign(text: str, pert: str) -> None:
    known = ["A", "(%2B)-JQ1", "(%2B)-JQ1+A", "A+B"]
    assert canonical_pert(typed_pert(text, known))[0] == pert
