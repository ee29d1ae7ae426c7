"""Mann-Whitney U of many groups of cells against one set of controls, for a few genes at once.

Only the controls are counted value by value: how many are below each value, and how many have it. Every other cell then
looks up its value. Zeros are one block of ties that is counted, not stored. All sums are whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from perturbfm_core.schema import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class GeneValues:
    """Values of some cells that are not zero, in pieces of which each holds gene after gene.

    Attributes
    ----------
    codes
        uint32 [n], in the order of the values, those of a gene all larger than those of the genes before it.
    present
        int64 [pieces, B], number of values of each piece and gene.
    group
        int64 [pieces], the group of each piece, ascending from 0.
    negative
        bool [n], which values are negative; None: none is.
    """

    codes: IntArray
    present: IntArray
    group: IntArray
    negative: Any = None

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the sums of values [n] by group and gene [P, B]."""
        per_piece = self.present.ravel()
        stored = np.flatnonzero(per_piece)
        out = np.zeros(len(per_piece))
        if len(stored):
            out[stored] = np.add.reduceat(values, (np.cumsum(per_piece) - per_piece)[stored])
        return np.asarray(self.by_group(out.reshape(self.present.shape)))

    def by_group(self, per_piece: Any) -> Any:
        """Return the sums of pieces [pieces, B] by group [P, B]."""
        first = np.flatnonzero(np.diff(self.group, prepend=-1))
        return per_piece if len(first) == len(self.group) else np.add.reduceat(per_piece, first, axis=0)


def rank_sums(
    control: GeneValues, groups: GeneValues, sizes: IntArray, n_controls: int, starts: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Return (two times Mann-Whitney U, sum of t^3 - t over tied values) of each group and gene [P, B].

    Ties count one half in U, and the tied values are those of group and controls together.

    Parameters
    ----------
    control, groups
        Values of the controls, which are one group, and of the groups.
    sizes
        Number of cells of each group [P].
    n_controls
        Number of control cells.
    starts
        int64 [B + 1], the least code that each gene may have, and the first that no gene has.
    """
    values = _ControlValues.of(control.codes, int(starts[-1]))
    stored, present = control.present.sum(axis=0), groups.by_group(groups.present)
    zero_controls = (n_controls - stored).astype(np.float64)
    zeros = (sizes[:, None] - present).astype(np.float64)
    place = values.places.take(groups.codes, mode="clip")
    # Below a value are also all controls of the genes before its own, which count for nothing, and the zero controls,
    # which equal every zero.
    before = np.cumsum(stored) - stored
    twice = groups.sums(values.weight.take(place, mode="clip")) + 2.0 * (zero_controls - before) * present
    twice += zeros * zero_controls
    if control.negative is not None:
        twice += 2.0 * zeros * control.sums(control.negative.astype(np.float64))
    if groups.negative is not None:
        twice -= 2.0 * zero_controls * groups.sums(groups.negative.astype(np.float64))
    # The controls' own term is in every group's sum; a group adds what its cells raise it by. Of t cells with a value
    # that e controls have this is (e + t)^3 - (e + t) less e^3 - e: 3 e (e + 1) of each cell, and more of equal ones.
    ends = np.cumsum(stored)
    own = np.concatenate([[0.0], np.cumsum(_cubed(values.equal[1::2]))])
    last = np.searchsorted(values.upto, np.stack([ends - stored, ends]))
    ties = _cubed(zeros + zero_controls) + (own[last[1]] - own[last[0]])
    ties += groups.sums(values.raised.take(place, mode="clip"))
    _add_repeated(ties, groups, values, starts)
    return twice, ties


@dataclass(frozen=True, eq=False)
class _ControlValues:
    """The values of the controls.

    Attributes
    ----------
    upto
        float64 [U + 1], number of controls below each value that occurs, and of all.
    places
        uint16 or uint32 [n_codes], an odd number 2 u + 1 for the code of value u, and 2 u for codes between the value
        before it and itself.
    equal
        float64 [2 U + 1], number of controls with the code of each place.
    weight
        float64 [2 U + 1], two times the number of controls below it, and the number of equal ones.
    raised
        float64 [2 U + 1], 3 e (e + 1) of the number e of equal controls.
    """

    upto: FloatArray
    places: IntArray
    equal: FloatArray
    weight: FloatArray
    raised: FloatArray

    @classmethod
    def of(cls, control: IntArray, n_codes: int) -> _ControlValues:
        """Return the values of controls with these codes [m]."""
        ranked = np.sort(control)
        new = np.ones(len(ranked) + 1, dtype=np.bool_)
        np.not_equal(ranked[1:], ranked[:-1], out=new[1:-1])
        upto = np.flatnonzero(new).astype(np.float64) if len(ranked) else np.zeros(1)
        distinct = ranked[new[:-1]]
        U = len(distinct)
        edges = np.empty(2 * U + 2, dtype=np.int64)
        edges[0], edges[-1] = 0, n_codes
        edges[1:-1:2] = distinct
        np.add(edges[1:-1:2], 1, out=edges[2:-1:2])
        kind = np.uint16 if 2 * U < 1 << 16 else np.uint32
        places: IntArray = np.repeat(np.arange(2 * U + 1).astype(kind), np.diff(edges))
        equal, weight = np.zeros(2 * U + 1), 2.0 * np.repeat(upto, 2)[:-1]
        equal[1::2] = np.diff(upto)
        weight += equal
        return cls(upto, places, equal, weight, 3.0 * equal * (equal + 1.0))


def _add_repeated(ties: FloatArray, groups: GeneValues, values: _ControlValues, starts: IntArray) -> None:
    """Add to the tie terms [P, B] what cells of a group with one value add together."""
    (P, B), bits = ties.shape, len(values.places).bit_length()
    kind = np.uint32 if P << bits < 1 << 32 else np.uint64
    group: Any = groups.group.astype(kind)
    keys = np.repeat(group << kind(bits), groups.present.sum(axis=1))
    keys |= groups.codes
    keys.sort()
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if not len(same):
        return
    # A pair of neighbours is the j-th of its value: t equal cells have the pairs 1 to t - 1, and 3 e t (t - 1) and
    # t^3 - t are the sums of 6 e j and of 3 j (j + 1) over them.
    number = np.arange(len(same))
    begin = number.copy()
    begin[1:][same[1:] == same[:-1] + 1] = 0
    j = (number - np.maximum.accumulate(begin) + 1).astype(np.float64)
    key = keys[same]
    code = key & kind((1 << bits) - 1)
    e = values.equal.take(values.places.take(code, mode="clip"))
    gene = np.searchsorted(starts[1:], code, side="right")
    slot = (key >> kind(bits)).astype(np.intp) * B + gene
    more = 3.0 * j * (2.0 * e + j + 1.0)
    ties += np.bincount(slot, weights=more, minlength=P * B).reshape(P, B)


def _cubed(t: FloatArray) -> FloatArray:
    return np.asarray(t * t * t - t)


def normal_scores(
    twice_u: FloatArray, ties: FloatArray, sizes: IntArray, n_controls: int
) -> tuple[FloatArray, FloatArray]:
    """Return (U less its mean, its standard deviation) of rank sums [P, G], corrected for ties.

    Parameters
    ----------
    twice_u, ties
        See `rank_sums`, [P, G].
    sizes
        Number of cells of each group [P].
    n_controls
        Number of control cells.
    """
    n, m = sizes.astype(np.float64)[:, None], float(n_controls)
    both = n + m
    correction = 1.0 - ties / np.maximum(both**3 - both, 1.0)
    sd = np.sqrt(np.maximum(correction, 0.0) * n * m * (both + 1.0) / 12.0)
    return (twice_u - n * m) / 2.0, sd


def two_sided_p(gap: FloatArray, sd: FloatArray, *, continuity: bool = False) -> Any:
    """Return the two-sided p-values of the normal approximation, 1 without any variation.

    Exact to a few units of the last digit.

    Parameters
    ----------
    gap, sd
        See `normal_scores`.
    continuity
        Whether the gap is reduced by one half.
    """
    size = np.abs(gap) - 0.5 if continuity else np.abs(gap)
    z = np.divide(size, sd, out=np.zeros_like(size), where=sd > 0)
    return np.minimum(2.0 * ndtr(-z), 1.0)
