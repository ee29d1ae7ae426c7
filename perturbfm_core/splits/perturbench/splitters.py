"""Reimplementation of PerturBench's splitters that reproduces its assignment of every cell.

Source: PerturBench (altoslabs/perturbench, commit d357dfa), ``PerturbationDataSplitter``; the parity cases
compare the results row by row. Every random choice of PerturBench is drawn from the same generator in the
same order: Python's `random` (re-seeded where PerturBench re-seeds), NumPy's `RandomState`, and
scikit-learn's stratified `train_test_split`.

A covariate key is the *set* of a row's covariate values. PerturBench stratifies by the text of that set,
whose order depends on ``PYTHONHASHSEED`` if there are two or more values; `labels` gives the texts that a
recorded split was made with. Without `labels` the values are written in sorted order, which is the same in
every process.

This module is longer than 400 lines because the peer's splitters share draws whose order decides the result.
"""

from __future__ import annotations

import ast
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import SplitError
from perturbfm_core.registry.members import Registry
from perturbfm_core.schema import StrArray
from perturbfm_core.splits.perturbench.set_order import union_order

Cov = frozenset[Hashable]
Pair = tuple[str, Cov]

SPLITS = ("train", "val", "test")
NO_SPLIT = ""


@dataclass(frozen=True)
class Options:
    """Arguments of PerturBench's three splitting methods, with its defaults.

    Attributes
    ----------
    seed
        Seed of every draw.
    min_train_covariates, max_heldout_covariates
        For `transfer`: a perturbation with more covariates than the first is held out in some of them; the
        second bounds in how many.
    max_heldout_fraction_per_covariate, max_heldout_perturbations_per_covariate
        Largest share and largest number of perturbations that are held out in one covariate.
    train_control_fraction
        Share of all control rows that go to train; the rest is halved between validation and test.
    test_fraction
        Share of the held-out pairs that is tested; the others are used for validation.
    downsample_fraction
        Share of the perturbations that is used at all.
    """

    seed: int = 54
    min_train_covariates: int = 1
    max_heldout_covariates: int = 2
    max_heldout_fraction_per_covariate: float = 0.3
    max_heldout_perturbations_per_covariate: int = 200
    train_control_fraction: float = 0.5
    test_fraction: float = 0.5
    downsample_fraction: float = 1.0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Return the options with the given values by name.

        Raises
        ------
        SplitError
            If a name is unknown.
        """
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                msg = f"PerturBench's splitters have no argument {name!r}; known: {', '.join(known)}"
                raise SplitError(msg)
        return cls(**given)


@dataclass(frozen=True, eq=False)
class _Observations:
    """The rows in the form that PerturBench works on.

    Attributes
    ----------
    perts, covs
        Perturbation and covariate set of each row.
    pert_order
        Distinct perturbations in the order in which PerturBench groups them.
    groups
        Covariate set and rows of each group of rows with equal covariate values, in PerturBench's order.
    control, delimiter
        Label of control rows; separator of the parts of a combination.
    hash_seed
        Hash seed of the PerturBench process, None to depend on none.
    """

    perts: list[str]
    covs: list[Cov]
    pert_order: list[str]
    groups: list[tuple[Cov, list[int]]]
    control: str
    delimiter: str
    hash_seed: str | None = None

    def distinct(self, rows: Iterable[int]) -> list[str]:
        """Return the distinct perturbations of rows, in order of first appearance."""
        return list(dict.fromkeys(self.perts[i] for i in rows))

    def parts(self, pert: str) -> list[str]:
        """Return the single perturbations of a combination."""
        return pert.split(self.delimiter)

    def is_combo(self, pert: str) -> bool:
        """Return whether a perturbation is a combination."""
        return self.delimiter in pert


Plan = tuple[list[Pair], list[Pair]]
Method = Callable[[_Observations, Options], Plan]
METHODS: Registry[Method] = Registry("PerturBench task", SplitError)

# PerturBench's method names, as other names of the tasks.
ALIASES = {
    "split_covariates": "transfer",
    "split_combinations": "combine",
    "split_combinations_inverse": "combine_inverse",
}


def perturbench_split(
    obs: pd.DataFrame,
    task: str,
    options: Options | None = None,
    *,
    perturbation_key: str = "condition",
    covariate_keys: Sequence[str] | None = None,
    control: str = "control",
    delimiter: str = "+",
    labels: Sequence[str] | None = None,
    hash_seed: str | None = None,
    refuse_empty: bool = True,
) -> StrArray:
    """Return PerturBench's assignment of every row: ``train``, ``val``, ``test``, or empty for none.

    Parameters
    ----------
    obs
        One row per cell, with a unique index and the columns named by the keys. Groups follow the order of
        categories in categorical columns and sorted order in others, as in pandas, which PerturBench uses.
    task
        ``transfer``, ``combine`` or ``combine_inverse`` (or PerturBench's method name).
    options
        Arguments of PerturBench's method.
    perturbation_key
        Column of perturbations.
    covariate_keys
        Columns of covariates; without any, all rows have the same covariate.
    control
        Label of control rows.
    delimiter
        Separator of the parts of a combination.
    labels
        Texts of the covariate sets (``frozenset({'a', 'b'})``) as written by the PerturBench process.
    hash_seed
        ``PYTHONHASHSEED`` of that process, by which a downsampled `combine_inverse` orders perturbations; without it
        they come in order of first appearance.
    refuse_empty
        Whether a split with a part without rows is refused, as by PerturBench's ``split_dataset``; its single methods
        return it.

    Raises
    ------
    SplitError
        Where PerturBench fails too: nothing or too little to hold out, a missing column, no controls.
    """
    method = METHODS.get(ALIASES.get(task, task))
    options = options or Options()
    seen = replace(_observe(obs, perturbation_key, covariate_keys, control, delimiter), hash_seed=hash_seed)
    train, held = method(seen, options)
    out = _assign(seen, train, held, options, _label_of(seen, labels))
    _assign_controls(seen, out, options)
    empty = [name for name in SPLITS if not (out == name).any()]
    if empty and refuse_empty:
        msg = f"{task} leaves {', '.join(empty)} without rows; change the fractions or the seed"
        raise SplitError(msg)
    return out


def _observe(
    obs: pd.DataFrame,
    perturbation_key: str,
    covariate_keys: Sequence[str] | None,
    control: str,
    delimiter: str,
) -> _Observations:
    """Check the table of rows and return it in the form that PerturBench works on."""
    keys = [] if covariate_keys is None else list(covariate_keys)
    for name in [perturbation_key, *keys]:
        if name not in obs:
            msg = f"the rows have no column {name!r}; columns: {', '.join(map(str, obs.columns))}"
            raise SplitError(msg)
        if obs[name].isna().any():
            msg = f"column {name!r} has {int(obs[name].isna().sum())} missing values; fill or drop them"
            raise SplitError(msg)
    if not obs.index.is_unique:
        msg = "row names repeat; make them unique"
        raise SplitError(msg)
    perts = [str(p) for p in obs[perturbation_key]]
    if control not in perts:
        msg = f"no row of column {perturbation_key!r} is {control!r}; name the control label"
        raise SplitError(msg)
    tuples = list(zip(*(obs[k].tolist() for k in keys), strict=True)) if keys else [("1",)] * len(obs)
    rank = [_ranks(obs[k]) for k in keys] or [{"1": 0}]
    rows_of: dict[tuple[Hashable, ...], list[int]] = {}
    for i, values in enumerate(tuples):
        rows_of.setdefault(values, []).append(i)
    if len(rank) == 1:
        # PerturBench groups a single categorical column with its unused categories, which are empty groups.
        for value in rank[0]:
            rows_of.setdefault((value,), [])
    ordered = sorted(rows_of, key=lambda t: tuple(r[v] for r, v in zip(rank, t, strict=True)))
    return _Observations(
        perts=perts,
        covs=[frozenset(t) for t in tuples],
        pert_order=[str(p) for p in _ranks(obs[perturbation_key])],
        groups=[(frozenset(t), rows_of[t]) for t in ordered],
        control=control,
        delimiter=delimiter,
    )


def _ranks(column: Any) -> dict[Any, int]:
    """Return {value: rank} of a column: categories in their order, other values sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        values = column.cat.categories.tolist()
    else:
        values = sorted(set(column.tolist()))
    return {value: i for i, value in enumerate(values)}


def _label_of(seen: _Observations, labels: Sequence[str] | None) -> dict[Cov, str]:
    """Return {covariate set: text by which its held-out pairs are stratified}."""
    out = {cov: "frozenset({" + ", ".join(sorted(map(repr, cov))) + "})" for cov, _ in seen.groups}
    for text in labels or ():
        try:
            inner = ast.literal_eval(text.removeprefix("frozenset(").removesuffix(")"))
            cov = frozenset(inner)
        except (ValueError, SyntaxError, TypeError) as error:
            msg = f"label {text!r} is not the text of a frozenset ({error}); give frozenset({{'a', 'b'}})"
            raise SplitError(msg) from error
        out[cov] = text
    return out


# ---- what is held out ------------------------------------------------------------------------------------


@METHODS.register("transfer")
def _transfer(seen: _Observations, o: Options) -> Plan:
    """Hold out perturbations in some of their covariates; return (train pairs, held-out pairs)."""
    # Largest number of perturbations that may be held out in each covariate set.
    cap = {
        cov: min(
            o.max_heldout_fraction_per_covariate * len({seen.perts[i] for i in rows}),
            o.max_heldout_perturbations_per_covariate,
        )
        for cov, rows in seen.groups
    }
    group_of_row = _group_of_row(seen)
    covs_of: dict[str, dict[int, Cov]] = {p: {} for p in seen.pert_order if p != seen.control}
    for i, pert in enumerate(seen.perts):
        if pert != seen.control:
            covs_of[pert].setdefault(group_of_row[i], seen.covs[i])
    # The order matters, since each perturbation takes the next seed: most covariates first, ties as grouped.
    perts = sorted(covs_of, key=lambda p: len(covs_of[p]), reverse=True)
    if o.downsample_fraction < 1.0:
        rng = random.Random(o.seed)
        kept = set(_sample(rng, perts, int(o.downsample_fraction * len(perts)), "downsample_fraction"))
        perts = [p for p in perts if p in kept]
    state = np.random.RandomState(o.seed)  # PerturBench's generator: one seed for each perturbation
    seeds = [int(state.randint(100000)) for _ in perts]
    n_held: Counter[Cov] = Counter()
    train: list[Pair] = []
    held: list[Pair] = []
    for pert, seed in zip(perts, seeds, strict=True):
        covs = list(covs_of[pert].values())
        chosen: list[Cov] = []
        pool = [c for c in covs if n_held[c] < cap[c]] if len(covs) > o.min_train_covariates else []
        if pool:
            rng = random.Random(seed)
            # PerturBench bounds the number by pool - covariates + max_heldout_covariates, and holds out at
            # least one.
            most = max(len(pool) - len(cap) + o.max_heldout_covariates, 1)
            chosen = _sample(rng, pool, rng.randint(1, most), "max_heldout_covariates")
            n_held.update(chosen)
            held += [(pert, c) for c in chosen]
        train += [(pert, c) for c in covs if c not in chosen]
    return train, held


@METHODS.register("combine")
def _combine(seen: _Observations, o: Options) -> Plan:
    """Hold out combinations of perturbations within each covariate; return (train pairs, held-out pairs)."""
    used = set(_used(seen, o))
    train: list[Pair] = []
    held: list[Pair] = []
    for cov, rows in seen.groups:
        perts = [p for p in seen.distinct(rows) if p in used]
        combos = [p for p in perts if seen.is_combo(p)]
        n = _n_held(o, len(combos))
        # The generator is seeded anew for each covariate, as in PerturBench.
        out = _sample(random.Random(o.seed), combos, n, "max_heldout_fraction_per_covariate")
        held += [(p, cov) for p in out]
        train += [(p, cov) for p in perts if p not in out]
    return train, held


@METHODS.register("combine_inverse")
def _combine_inverse(seen: _Observations, o: Options) -> Plan:
    """Hold out single perturbations; return (train pairs, held-out pairs).

    No two parts of the same combination are held out: the other parts of its combinations stay in train.
    """
    used = _used(seen, o)
    train: list[Pair] = []
    held: list[Pair] = []
    for cov, rows in seen.groups:
        present = set(seen.distinct(rows))
        perts = [p for p in used if p in present]
        combos_with: dict[str, list[str]] = {}
        for combo in filter(seen.is_combo, perts):
            for part in seen.parts(combo):
                combos_with.setdefault(part, []).append(combo)
        singles = [p for p in perts if not seen.is_combo(p)]
        pool = random.Random(o.seed).sample(singles, len(singles))
        out: list[str] = []
        while pool and len(out) < _n_held(o, len(singles)):
            pert = pool.pop()
            out.append(pert)
            # Parts that occur in a combination with this perturbation can no longer be held out.
            barred = {part for combo in combos_with.get(pert, ()) for part in seen.parts(combo)}
            pool = [p for p in pool if p not in barred]
        held += [(p, cov) for p in out]
        train += [(p, cov) for p in perts if p not in out]
    return train, held


def _group_of_row(seen: _Observations) -> list[int]:
    out = [0] * len(seen.perts)
    for g, (_, rows) in enumerate(seen.groups):
        for i in rows:
            out[i] = g
    return out


def _n_held(o: Options, n: int) -> int:
    return min(int(o.max_heldout_fraction_per_covariate * n), o.max_heldout_perturbations_per_covariate)


def _used(seen: _Observations, o: Options) -> list[str]:
    """Return the perturbations that remain after downsampling, in order of first appearance.

    A combination remains only if all its parts do. PerturBench keeps the perturbations in a set: with
    downsampling, the order in which it draws the single perturbations of `combine_inverse` depends on its
    hash seed. The order here does not, unless that seed is given.
    """
    perts = seen.distinct(range(len(seen.perts)))
    if o.downsample_fraction >= 1.0:
        return perts
    n = int(np.round(len(perts) * o.downsample_fraction, 0))
    sampled = _sample(random.Random(o.seed), perts, n, "downsample_fraction")
    singles = [p for p in sampled if not seen.is_combo(p)]
    present = {*singles, seen.control}
    combos = [p for p in sampled if seen.is_combo(p) and present.issuperset(seen.parts(p))]
    if seen.hash_seed is not None:
        return union_order(singles, seen.control, combos, seen.hash_seed)
    kept = present.union(combos)
    return [p for p in perts if p in kept]


def _sample(rng: random.Random, population: list[Any], k: int, argument: str) -> list[Any]:
    if not 0 <= k <= len(population):
        msg = f"{argument} asks for {k} of {len(population)}, which the peer refuses too; lower it"
        raise SplitError(msg)
    return rng.sample(population, k)


# ---- validation and test -----------------------------------------------------------------------------------


def _assign(
    seen: _Observations, train: list[Pair], held: list[Pair], o: Options, label_of: Mapping[Cov, str]
) -> StrArray:
    """Return the split of every row; the only held-out pair of a covariate is in no split."""
    from sklearn.model_selection import train_test_split

    # Stratification needs at least two pairs per covariate set.
    counts = Counter(cov for _, cov in held)
    held = [pair for pair in held if counts[pair[1]] > 1]
    if not held:
        msg = "no covariate has two perturbations to hold out; raise max_heldout_fraction_per_covariate"
        raise SplitError(msg)
    try:
        val, test = train_test_split(
            range(len(held)),
            stratify=[label_of[cov] for _, cov in held],
            test_size=o.test_fraction,
            random_state=o.seed,
        )
    except ValueError as error:
        msg = (
            f"the {len(held)} held-out pairs cannot be divided by covariate ({' '.join(str(error).split())})"
        )
        raise SplitError(msg) from error
    split_of: dict[Pair, str] = dict.fromkeys(train, "train")
    split_of.update({held[i]: "val" for i in val})
    split_of.update({held[i]: "test" for i in test})
    rows = zip(seen.perts, seen.covs, strict=True)
    # Wide enough for each name, whichever of them the perturbed rows have.
    width = max(map(len, SPLITS))
    return np.asarray([split_of.get(pair, NO_SPLIT) for pair in rows], dtype=f"<U{width}")


def _assign_controls(seen: _Observations, out: StrArray, o: Options) -> None:
    """Divide all control rows at random between the splits, without regard to their covariates."""
    rows = [i for i, pert in enumerate(seen.perts) if pert == seen.control]
    rows = random.Random(o.seed).sample(rows, len(rows))
    val_fraction = (1 - o.train_control_fraction) / 2
    # Truncated as in PerturBench, so that the remainder goes to the later splits.
    first = int(o.train_control_fraction * len(rows))
    second = int((val_fraction + o.train_control_fraction) * len(rows))
    for name, part in zip(SPLITS, (rows[:first], rows[first:second], rows[second:]), strict=True):
        out[part] = name
