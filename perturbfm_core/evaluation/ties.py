"""The largest entries of vectors, where ties share the places left and zeros have none.

Expectations are over tie orders: all orders of the columns, the same for both vectors, so that a vector shares all of
its largest entries with itself. The order of the columns as they come never matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, roots_legendre
from scipy.stats import beta, binom, hypergeom

from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray

# A difference of at most this share of the larger value is rounding in single precision.
ROUNDING = 1e-6
# Entries of at most this share of the largest one are zero.
_ZERO = 1e-7
# Values that differ by no more than this share are tied; in single precision this means that they are equal.
_TIE = 1e-9
# Nodes of the quadrature for sums of more terms than these.
_NODES, _EXACT = 400, 40_000


@dataclass(frozen=True, eq=False)
class Largest:
    """The k largest entries in size of each row.

    Attributes
    ----------
    sure
        bool [C, G], entries that are among them in every tie order.
    tied
        bool [C, G], entries that compete for the places left.
    places
        int64 [C], places left for tied entries, fewer than there are tied entries.
    k
        int64 [C], how many entries count as largest: less than asked for where fewer are not zero.
    """

    sure: BoolArray
    tied: BoolArray
    places: IntArray
    k: IntArray


def sizes(A: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return float64 [C, G], sizes of entries: 0 for zeros up to rounding, all equal where they differ by rounding only.

    Parameters
    ----------
    A
        Values [C, G]; infinite ones are larger than all others.
    mask
        Columns to use in each row [C, G]; the others count as zeros.
    """
    size = np.abs(np.asarray(A, dtype=np.float64))
    if mask is not None:
        size = np.where(mask, size, 0.0)
    infinite = np.isinf(size)
    top = np.max(size, axis=1, initial=0.0, where=~infinite, keepdims=True)
    size = np.where(size > _ZERO * top, size, 0.0) if not infinite.any() else _with_infinite(size, top)
    used = np.ones(size.shape, dtype=np.bool_) if mask is None else mask
    low = np.min(size, axis=1, initial=np.inf, where=used, keepdims=True)
    flat = (top - low <= ROUNDING * top) & (top > 0) & ~infinite.any(axis=1, keepdims=True)
    return np.asarray(np.where(flat & used, top, size)) if flat.any() else size


def _with_infinite(size: FloatArray, top: FloatArray) -> FloatArray:
    return np.asarray(np.where((size > _ZERO * top) | np.isinf(size), size, 0.0))


def n_nonzero(A: FloatArray, mask: BoolArray | None = None) -> IntArray:
    """Return int64 [C], the number of entries that are not zero up to rounding (see `sizes`)."""
    return np.asarray((sizes(A, mask) > 0).sum(axis=1))


def largest(size: FloatArray, k: IntArray) -> Largest:
    """Return the k largest of each row.

    Parameters
    ----------
    size
        Sizes [C, G], not negative (see `sizes`); those of 0 are never among the largest.
    k
        How many [C], at most.
    """
    k = np.minimum(k, (size > 0).sum(axis=1))
    most = max(int(k.max(initial=0)), 1)
    top = np.partition(size, size.shape[1] - most, axis=1)[:, size.shape[1] - most :]
    ordered = -np.sort(-top, axis=1)
    last = np.take_along_axis(ordered, np.maximum(k - 1, 0)[:, None], axis=1)
    some = (k > 0)[:, None]
    sure = (size > last * (1 + _TIE)) & some
    tied = (size >= last * (1 - _TIE)) & (size > 0) & ~sure & some
    places = k - sure.sum(axis=1)
    # As many places as tied entries: nothing is left to chance.
    settled = tied.sum(axis=1) == places
    sure |= tied & settled[:, None]
    tied &= ~settled[:, None]
    return Largest(sure, tied, np.where(settled, 0, places), k)


def both_largest(
    A: FloatArray, B: FloatArray, k: int, mask: BoolArray | None = None
) -> tuple[Largest, Largest]:
    """Return the k largest of each row of both sides, the same k: as many as are not zero on either side, at most `k`.

    Parameters
    ----------
    A, B
        Values [C, G].
    k
        Number of columns in each of the two sets.
    mask
        Columns to use in each row [C, G]; all by default.
    """
    a, b = sizes(A, mask), sizes(B, mask)
    each = np.minimum(np.minimum((a > 0).sum(axis=1), (b > 0).sum(axis=1)), k)
    return largest(a, each), largest(b, each)


def expected_shared(a: Largest, b: Largest) -> FloatArray:
    """Return float64 [C], the expected number of columns that are among the largest on both sides."""
    out: FloatArray = (a.sure & b.sure).sum(axis=1).astype(np.float64)
    if not (a.tied.any() or b.tied.any()):
        return out
    n_a, n_b = a.tied.sum(axis=1), b.tied.sum(axis=1)
    out += (a.tied & b.sure).sum(axis=1) * a.places / np.maximum(n_a, 1)
    out += (b.tied & a.sure).sum(axis=1) * b.places / np.maximum(n_b, 1)
    common = (a.tied & b.tied).sum(axis=1)
    for i in np.flatnonzero(common):
        sides = [(int(n[i] - common[i]), int(x.places[i])) for n, x in ((n_a, a), (n_b, b))]
        out[i] += _expected_common(int(common[i]), *sides[0], *sides[1])
    return out


def shared_bounds(a: Largest, b: Largest) -> tuple[IntArray, IntArray]:
    """Return int64 [C] twice, bounds of how many columns are among the largest on both sides, each in any tie order."""

    def common(x: BoolArray, y: BoolArray) -> IntArray:
        return np.asarray((x & y).sum(axis=1))

    both = common(a.sure, b.sure)
    # Ties fill places outside the other side's largest as far as there are any; the rest is forced into them.
    forced = [np.maximum(x.places - common(x.tied, ~y.sure), 0) for x, y in ((a, b), (b, a))]
    free = [np.minimum(x.places, common(x.tied, y.sure)) for x, y in ((a, b), (b, a))]
    tied = np.minimum(np.minimum(a.places, b.places), common(a.tied, b.tied))
    return both + sum(forced), np.minimum(both + sum(free) + tied, np.minimum(a.k, b.k))


def _expected_common(n: int, a: int, for_a: int, b: int, for_b: int) -> float:
    """Return how many columns that are tied on both sides get a place on both, in expectation over common orders.

    Parameters
    ----------
    n
        Columns tied on both sides.
    a, b
        Columns tied on one side only.
    for_a, for_b
        Places of each side.
    """
    # The v-th of the common columns gets a place if few enough of the side's own ties come before it.
    v = np.arange(1, min(n, for_a, for_b) + 1)
    if not a and not b:
        return float(len(v))
    if not a or not b:
        own, places = (b, for_b) if not a else (a, for_a)
        return float(hypergeom.sf(v - 1, n + own, n, places).sum())
    if for_a * for_b <= _EXACT:
        # a's own ties before the v-th common column are negative hypergeometric; with x of them before it, it is
        # the r-th of n + a columns, among which b's own ties fall: at most as many as b has places left.
        v, x = v[:, None], np.arange(for_a)
        log = _log_choose(v - 1 + x, x) + _log_choose(n - v + a - x, a - x) - _log_choose(n + a, a)
        chance = np.where((v + x <= for_a) & (x <= a), np.exp(log), 0.0)
        r = np.minimum(v + x, n + a)
        term = np.exp(_log_choose(n + a - r + b, b) - _log_choose(n + a + b, b))
        before = np.zeros_like(term)
        for y in range(min(for_b, b + 1)):
            before += np.where(y <= for_b - v, term, 0.0)
            term = term * (r + y) / (y + 1) * (b - y) / np.maximum(n + a - r + b - y, 1)
        return float((chance * before).sum())
    # So many places that the sum has too many terms: the same integral by quadrature, to a relative 1e-6.
    u, weight = _nodes()
    # With columns at independent uniform positions, that of the v-th is Beta distributed; before it the ties of the
    # two sides are independent binomial numbers.
    chance = beta.pdf(u, v[:, None], n - v[:, None] + 1)
    chance *= binom.cdf(for_a - v[:, None], a, u) * binom.cdf(for_b - v[:, None], b, u)
    return float((chance @ weight).sum())


def _log_choose(n: IntArray | int, k: IntArray | int) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.asarray(
            gammaln(np.add(n, 1.0)) - gammaln(np.add(k, 1.0)) - gammaln(np.subtract(n, k) + 1.0)
        )


@lru_cache(maxsize=1)
def _nodes() -> tuple[FloatArray, FloatArray]:
    """Return (positions, weights) of a Gauss-Legendre rule between 0 and 1."""
    x, w = roots_legendre(_NODES)
    return np.asarray((x + 1) / 2), np.asarray(w / 2)


def expected_jaccard(a: Largest, b: Largest) -> FloatArray:
    """Return float64 [C], the expected Jaccard index of the two sets of columns; NaN where both are empty."""
    shared = (a.sure & b.sure).sum(axis=1).astype(np.float64)
    total = (a.k + b.k).astype(np.float64)
    out = np.full(len(shared), np.nan)
    np.divide(shared, total - shared, out=out, where=total > 0)
    for i in np.flatnonzero(a.tied.any(axis=1) | b.tied.any(axis=1)):
        chance = _distribution(a, b, int(i))[: int(min(a.k[i], b.k[i]) - shared[i]) + 1]
        number = shared[i] + np.arange(len(chance))
        out[i] = float((chance * number / (total[i] - number)).sum())
    return out


def _distribution(a: Largest, b: Largest, i: int) -> FloatArray:
    """Return [n]: the probability that n of the columns that are shared by chance are shared, in row `i`."""
    common = int((a.tied[i] & b.tied[i]).sum())
    own = [int(x.tied[i].sum()) - common for x in (a, b)]
    with_sure = [int((x.tied[i] & y.sure[i]).sum()) for x, y in ((a, b), (b, a))]
    places = [int(x.places[i]) for x in (a, b)]
    joint = _places_of_common(common, own[0], places[0], own[1], places[1])
    out = np.zeros(sum(places) + 1)
    for x, y in np.argwhere(joint > 0):
        # The rest of the places goes to a side's own ties, some of which are surely among the other side's largest.
        rest = [
            hypergeom.pmf(np.arange(n - taken + 1), m, s, n - taken) if m else np.ones(1)
            for n, taken, m, s in zip(places, (x, y), own, with_sure, strict=True)
        ]
        both = np.convolve(rest[0], rest[1])
        first = min(x, y)
        out[first : first + len(both)] += joint[x, y] * both
    return out


def _places_of_common(n: int, a: int, for_a: int, b: int, for_b: int) -> FloatArray:
    """Return [for_a + 1, for_b + 1]: the probability that the common ties get so many places on each side.

    Parameters
    ----------
    n
        Columns tied on both sides.
    a, b
        Columns tied on one side only.
    for_a, for_b
        Places of each side.
    """
    out = np.zeros((for_a + 1, for_b + 1))
    # Columns come one by one: (common ones, ties of a, ties of b) so far, until the places of one side are taken.
    chance = {(0, 0, 0): 1.0}
    while chance:
        later: dict[tuple[int, int, int], float] = {}
        for (x, i, j), p in chance.items():
            if x + i == for_a or x + j == for_b:
                fixed, seen, left, size = (0, j, for_b, b) if x + i == for_a else (1, i, for_a, a)
                more = np.arange(left - x - seen + 1)
                number = hypergeom.pmf(more, n - x + size - seen, n - x, left - x - seen)
                target = out[x, x : x + len(more)] if fixed == 0 else out[x : x + len(more), x]
                target += p * number
                continue
            ahead = n - x + a - i + b - j
            for step, many in (((1, 0, 0), n - x), ((0, 1, 0), a - i), ((0, 0, 1), b - j)):
                if many:
                    state = (x + step[0], i + step[1], j + step[2])
                    later[state] = later.get(state, 0.0) + p * many / ahead
        chance = later
    return out


def first_by_name(size: FloatArray, k: int, names: StrArray | None = None) -> BoolArray:
    """Return bool [C, G], one choice of the k largest entries of each row: among ties those of the first names.

    For scores that need one set of columns and have no expectation over tie orders.

    Parameters
    ----------
    size
        Sizes [C, G] (see `sizes`); zeros are never chosen.
    k
        How many, at most.
    names
        Column names [G]; without them among ties the earlier columns.
    """
    order = by_name(size, names)[:, :k]
    chosen = np.zeros(size.shape, dtype=np.bool_)
    np.put_along_axis(chosen, order, True, axis=1)
    return np.asarray(chosen & (size > 0))


def by_name(size: FloatArray, names: StrArray | None = None) -> IntArray:
    """Return int64 [C, G], columns by falling size, ties by name (without names in their order)."""
    if names is None:
        return np.asarray(np.argsort(-size, axis=1, kind="stable"))
    first = np.argsort(names, kind="stable")
    return np.asarray(first[np.argsort(-size[:, first], axis=1, kind="stable")])
