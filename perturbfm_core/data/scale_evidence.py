"""Evidence of the scale of expression values: row sums and whole multiples after inversion, mixtures of scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.count_evidence import doubted_counts
from perturbfm_core.data.matrix import Matrix, is_stored, matrix_blocks, values_of
from perturbfm_core.data.repeated_rows import repeated_rows, row_marks
from perturbfm_core.schema import FloatArray, IntArray

_ROWS = 1000
# Row sums that differ by less than this share of their mean are equal but for rounding; real depths differ by
# tens of percent.
_EQUAL_SUMS = 2e-3
_WHOLE = 0.02
# Log sums that are equal within rounding, and those that are similar; least share of the rows of one scale.
_NEAR, _WIDE, _SHARE = 1e-3, 2e-2, 0.03
# Up to here half precision holds every whole number; so many values beyond tell that all went through it.
_HALF_EXACT, _HALF_SEEN, _HALF_MOST = 2048, 20, float(np.finfo(np.float16).max)
# Most that rows are scaled to is a million.
_MOST_DEPTH = 1e7

_INVERSE: Final[dict[str, Callable[[FloatArray], FloatArray]]] = {
    "normalized": lambda x: x,
    "log1p": np.expm1,
    "log2p1": lambda x: np.exp2(x) - 1.0,
    "log10p1": lambda x: np.power(10.0, x) - 1.0,
}
_NAMES: Final = {
    "normalized": "normalised counts without a logarithm",
    "log1p": "log1p values",
    "log2p1": "log2(x + 1) values",
    "log10p1": "log10(x + 1) values",
}


@dataclass(frozen=True)
class Evidence:
    """What the values of a matrix say about their scale.

    Attributes
    ----------
    low, high
        Smallest and largest value.
    whole
        Whether all values are whole numbers.
    inverse
        Scale that the values are in by their inversion (``normalized``, ``log1p``, ``log2p1``, ``log10p1``),
        None if they do not show it.
    reason
        What shows it, in one clause.
    standardized
        Whether nearly every gene has standard deviation 1 over all rows, and mean 0 where values are negative.
    mixture
        Which scales or depths parts of the rows have, empty if they have one.
    several
        Whether these differ so much that no declaration fits.
    empty
        Rows in which every value is zero.
    unscaled
        Logarithm (``log1p``, ``log2p1``, ``log10p1``) of counts themselves, of which rows were not scaled to one depth; None
        if the values are none.
    doubt
        What speaks against whole numbers being counts, empty if nothing does.
    held
        Largest value of the type of the matrix, where it is of whole numbers in one or two bytes; None else.
    twice
        What shows that the logarithm was taken twice, empty if nothing does.
    halved
        How many whole numbers are beyond those that half precision holds exactly, where it holds all of them; 0 else.
    depth
        What every row sums to in the scale `inverse`, None if they differ.
    repeated
        (position of a row, that of an earlier one with the very same values) of each row that repeats another, int [n, 2].
    """

    low: float
    high: float
    whole: bool
    inverse: str | None
    reason: str
    standardized: bool
    mixture: str = ""
    several: bool = False
    empty: int = 0
    unscaled: str | None = None
    twice: str = ""
    held: int | None = None
    doubt: str = ""
    halved: int = 0
    depth: float | None = None
    repeated: IntArray = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))


def evidence(X: Matrix) -> Evidence:
    """Return what the values of a matrix [N, G], CSR, dense or rows of a file, say about their scale."""
    picked = np.unique(np.linspace(0, X.shape[0] - 1, min(X.shape[0], _ROWS)).astype(np.int64))
    lows, highs, whole, stored, rows, empty = [], [], True, 0, [], 0
    marks, held, beyond, half = np.empty((X.shape[0], 2)), None, 0, True
    for block, part in matrix_blocks(X) if is_stored(X) else [(slice(0, X.shape[0]), X)]:
        data = values_of(part)
        empty += _empty_rows(part)
        marks[block] = row_marks(part)
        stored += len(data)
        narrow = data.dtype.kind in "iu" and data.dtype.itemsize <= 2
        held = int(np.iinfo(data.dtype.str).max) if narrow else held
        if len(data):
            lows.append(np.min(data))
            highs.append(np.max(data))
        # Most matrices that are not counts show it in the first values, which saves a pass over all of them.
        whole = whole and bool(np.all(data[:100_000] == np.rint(data[:100_000])))
        whole = whole and bool(np.all(data == np.rint(data)))
        if whole and half:
            large = data[data > _HALF_EXACT]
            beyond += len(large)
            half = bool((large <= _HALF_MOST).all() and (large == large.astype(np.float16)).all())
        mine = part[picked[(picked >= block.start) & (picked < block.stop)] - block.start]
        rows.append(np.asarray(mine.toarray() if sp.issparse(mine) else mine, dtype=np.float64))
    if not stored:
        return Evidence(0.0, 0.0, True, None, "no values", False, empty=empty)
    low, high = float(np.min(lows)), float(np.max(highs))
    if stored < X.shape[0] * X.shape[1]:
        low, high = min(low, 0.0), max(high, 0.0)
    if not np.isfinite([low, high]).all():
        # Non-finite values are reported by `check_finite`, with row and gene.
        return Evidence(low, high, whole, None, "values that are not finite", False)
    if low < 0:
        found = _standardized(X)
        return Evidence(
            low, high, whole, None, "negative values", found, held=held, repeated=repeated_rows(marks)
        )
    sample = np.concatenate(rows)
    inverse, reason, depth = _inverse(sample, whole, high)
    mixture, several = _mixture(sample, whole, high)
    unscaled = None if whole else _log_of_counts(sample, high)
    twice = "" if whole or inverse or unscaled else _log_of_logs(sample, high)
    repeated = repeated_rows(marks)
    # A pass over all values is made only where a sample could be scaled.
    unknown = not (whole or inverse or unscaled or twice or several) and _may_be_scaled(sample)
    return Evidence(
        low=low,
        high=high,
        whole=whole,
        inverse=inverse,
        reason=reason,
        depth=depth,
        standardized=unknown and _standardized(X, centred=False),
        mixture=mixture,
        several=several,
        empty=empty,
        unscaled=unscaled,
        twice=twice,
        held=held,
        doubt=doubted_counts(sample, high) if whole else "",
        halved=beyond if whole and half and beyond >= _HALF_SEEN else 0,
        repeated=repeated,
    )


def _empty_rows(part: Matrix) -> int:
    """Return in how many rows of a matrix every value is zero."""
    if not sp.issparse(part):
        return int((~part.any(axis=1)).sum())
    if part.format == "csr" and part.data.all():
        return int((np.diff(part.indptr) == 0).sum())
    return int(((part != 0).sum(axis=1) == 0).sum())


def _inverse(dense: FloatArray, whole: bool, high: float) -> tuple[str | None, str, float | None]:
    """Return (scale that a sample of rows is in by its inversion, what shows it, what every row sums to in it)."""
    dense = dense[dense.any(axis=1)]
    if whole:
        return None, "whole numbers", None
    if len(dense) < 3 or dense.shape[1] < 3:
        return None, "too few rows to tell", None
    spread: dict[str, float] = {}
    for name, invert in _INVERSE.items():
        if (name == "log10p1" and high > 30) or (name != "normalized" and high > 700):
            continue
        sums = invert(dense).sum(axis=1)
        spread[name] = float(sums.std() / sums.mean()) if sums.mean() > 0 else np.inf
    best = min(spread, key=lambda k: spread[k])
    rest = [v for k, v in spread.items() if k != best]
    if spread[best] < _EQUAL_SUMS and min(rest, default=1.0) > 5 * spread[best] + 1e-6:
        total = float(np.median(_INVERSE[best](dense).sum(axis=1)))
        return best, f"as {_NAMES[best]} every row sums to {total:.6g}", total
    shares = {k: _whole_ratios(_INVERSE[k], dense) for k in spread}
    best = min(shares, key=lambda k: shares[k])
    rest = [v for k, v in shares.items() if k != best]
    if shares[best] < _WHOLE and min(rest, default=1.0) > 3 * shares[best] + _WHOLE:
        return best, f"as {_NAMES[best]} the values of a row are whole multiples of its smallest", None
    return None, "row sums differ in every scale", None


def _whole_ratios(invert: Callable[[FloatArray], FloatArray], dense: FloatArray) -> float:
    """Return how far values of a row are from whole multiples of its smallest one: 0 if they are, about .25 if not.

    Counts of a cell, normalised by its depth, are multiples of the value of one count.
    """
    off, seen = [], set()
    for row in dense[:200]:
        values = invert(row[row > 0])
        if len(values) < 5:
            continue
        ratio = values / values.min()
        # Far ratios are whole within rounding only if float32 has the digits.
        ratio = ratio[(ratio > 1.2) & (ratio < 20)]
        if len(ratio) >= 3:
            off.append(float(np.abs(ratio - np.rint(ratio)).mean()))
            seen |= set(np.rint(ratio).tolist())
    # Counts of a screen have many multiples; one alone is a coincidence (2 is 10 after a wrong logarithm).
    return float(np.median(off)) if len(off) >= 5 and len(seen) >= 3 else 1.0


def _log_of_counts(dense: FloatArray, high: float) -> str | None:
    """Return the logarithm whose inversion makes counts of a sample of rows, the depths of which differ."""
    dense = dense[dense.any(axis=1)][:200]
    for name, invert in _INVERSE.items():
        if name == "normalized" or high > 700 or (name == "log10p1" and high > 30):
            continue
        rows = [invert(row[row > 0]) for row in dense]
        sums = np.asarray([row.sum() for row in rows])
        if len(rows) < 3 or sum(map(len, rows)) < 30 or sums.std() <= _EQUAL_SUMS * sums.mean():
            continue
        # Rows of normalised counts may be whole as well, multiples of the whole number that one count became.
        if np.mean([_are_counts(row) for row in rows]) > 0.95:
            return name
    return None


def _log_of_logs(dense: FloatArray, high: float) -> str:
    """Return what shows that log1p was taken of log1p values, empty if nothing does."""
    dense = dense[dense.any(axis=1)]
    # No log1p value exceeds 25, so that its own logarithm stays below 3.3.
    if high > 3.3 or len(dense) < 3 or dense.shape[1] < 3:
        return ""
    sums = [invert(dense).sum(axis=1) for invert in (np.expm1, lambda x: np.expm1(np.expm1(x)))]
    once, both = (float(x.std() / x.mean()) for x in sums)
    if both < _EQUAL_SUMS and once > 5 * both + 1e-6:
        return f"as log1p of log1p values every row sums to {float(np.median(sums[1])):.6g}"
    once, both = _whole_ratios(np.expm1, dense), _whole_ratios(lambda x: np.expm1(np.expm1(x)), dense)
    if both < _WHOLE and once > 3 * both + _WHOLE:
        return "as log1p of log1p values those of a row are whole multiples of its smallest"
    return ""


def _are_counts(values: FloatArray) -> bool:
    """Return whether values are whole numbers without a common divisor, within the rounding of float32."""
    # Larger values are whole within rounding whatever they are.
    values = values[values < 1e4]
    nearest = np.rint(values)
    close = (np.abs(values - nearest) <= 1e-3 + 2e-6 * values) & (nearest > 0)
    return len(values) > 0 and bool(close.all()) and int(np.gcd.reduce(nearest.astype(np.int64))) == 1


def _standardized(X: Matrix, *, centred: bool = True) -> bool:
    """Return whether nearly all genes have standard deviation 1 over all rows, and mean 0 if `centred`."""
    n = X.shape[0]
    if n < 20:
        return False
    mean, square = _first_two(X)
    sd = np.sqrt(np.maximum(square - mean**2, 0))
    used = sd > 1e-6
    # Clipped values, as scanpy's `max_value` makes them, lower the standard deviation of some genes.
    if not used.any() or (centred and (np.abs(mean[used]) < 0.02).mean() <= 0.8):
        return False
    near = np.abs(sd[used] - 1) < 0.05
    if not centred:
        # Only where values were divided by it is it the same to the last digits.
        near &= np.abs(sd[used] - np.median(sd[used])) < 1e-3
    return bool(near.mean() > 0.6)


def _may_be_scaled(dense: FloatArray) -> bool:
    """Return whether the standard deviations of genes in a sample of rows are near 1, as far as rare genes show it."""
    sd = dense.std(axis=0)
    used = sd > 1e-6
    return bool(used.any() and np.median(np.abs(sd[used] - 1)) < 0.5)


def _first_two(X: Matrix) -> tuple[FloatArray, FloatArray]:
    """Return the means of each column's values and of their squares."""
    sums = np.zeros((2, X.shape[1]))
    for _, part in matrix_blocks(X) if is_stored(X) else [(None, X)]:
        square = part.power(2) if sp.issparse(part) else np.square(part, dtype=np.float64)
        for into, values in zip(sums, (part, square), strict=True):
            into += np.asarray(values.sum(axis=0, dtype=np.float64)).reshape(-1)
    return sums[0] / X.shape[0], sums[1] / X.shape[0]


def _mixture(dense: FloatArray, whole: bool, high: float) -> tuple[str, bool]:
    """Return (which groups of rows differ in scale, whether they differ so much that none can be declared).

    A row belongs to a scale if many rows have its sum, within rounding, and few others a similar one.
    """
    dense = dense[dense.any(axis=1)]
    if len(dense) < 20 or whole:
        return "", False
    least = max(5.0, _SHARE * len(dense))
    fractions = (dense != np.rint(dense)).any(axis=1)
    counts = ~fractions & (dense.max(axis=1) > 1)
    if counts.sum() >= least and fractions.sum() >= least:
        # Counts that were corrected for ambient RNA have fractions in some rows and are in no other scale.
        other, reason, _ = _inverse(dense[fractions], False, high)
        if other is not None and (other != "normalized" or "sums to" in reason):
            return (
                f"{int(counts.sum())} of {len(dense)} rows looked at are whole numbers, the others are {_NAMES[other]}",
                True,
            )
    groups: list[tuple[int, str, float]] = []
    for name, invert in _INVERSE.items():
        if (name == "log10p1" and high > 30) or (name != "normalized" and high > 700):
            continue
        sums = np.sort(np.log(np.maximum(invert(dense).sum(axis=1), 1e-12)))
        near = np.searchsorted(sums, sums + _NEAR, "right") - np.searchsorted(sums, sums - _NEAR)
        wide = np.searchsorted(sums, sums + _WIDE, "right") - np.searchsorted(sums, sums - _WIDE)
        # Larger sums are of values that are no logarithms: the largest of a row, such as a count, makes all of its sum.
        tight = (near >= least) & (near >= 0.8 * wide) & (sums < np.log(_MOST_DEPTH))
        while tight.any():
            at = float(np.median(sums[tight][: int(near[np.argmax(tight)])]))
            members = np.abs(sums - at) <= 2 * _NEAR
            groups.append((int(members.sum()), name, float(np.exp(at))))
            tight &= ~members
    groups.sort(reverse=True)
    kept: list[tuple[int, str, float]] = []
    for group in groups:
        # Equal rows have equal sums in every scale: only groups that rows are left for count.
        if sum(k for k, _, _ in kept) + group[0] <= len(dense) * 1.001:
            kept.append(group)
    if len(kept) == 1:
        return _beside_log_counts(dense, kept[0], least)
    if len(kept) < 2:
        return "", False
    shown = ", ".join(f"{k} rows sum to {total:.6g} as {_NAMES[name]}" for k, name, total in kept[:3])
    totals = [total for _, _, total in kept]
    apart = len({name for _, name, _ in kept}) > 1 or max(totals) > 2 * min(totals)
    return f"rows differ in scale: of {len(dense)} looked at, {shown}", apart


def _beside_log_counts(dense: FloatArray, group: tuple[int, str, float], least: float) -> tuple[str, bool]:
    """Return what `_mixture` does where rows beside those of one depth are logarithms of counts that nobody scaled.

    Parameters
    ----------
    dense
        Rows [n, G] without empty ones.
    group
        (how many rows have one sum, the scale in which they have it, the sum).
    least
        How many rows of another kind count.
    """
    _, name, total = group
    invert = _INVERSE[name]
    rest = dense[np.abs(np.log(np.maximum(invert(dense).sum(axis=1), 1e-12)) - np.log(total)) > 2 * _NEAR]
    if len(rest) < least or name == "normalized":
        return "", False
    if np.mean([_are_counts(invert(row[row > 0])) for row in rest[:200]]) <= 0.95:
        return "", False
    return (
        f"{len(rest)} of {len(dense)} rows looked at are {name} of counts that were not scaled, the others sum to {total:.6g} as "
        f"{_NAMES[name]}",
        True,
    )
