"""Warnings about the values of an imported matrix: empty or repeated rows, counts that were rounded, a doubtful scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.scale_evidence import Evidence
from perturbfm_core.data.space import fold_change_like

# Of rows that sum to less no value is large enough for a logarithm.
_SMALL_DEPTH = 50.0


def value_warnings(
    found: Evidence,
    mapping: ColumnMapping,
    what: str,
    row_ids: Sequence[str],
    counts_in: Callable[[], Sequence[str]],
) -> list[str]:
    """Return what would make numbers wrong if it is not meant, one sentence each.

    Parameters
    ----------
    found
        What the values show.
    mapping
        Declared scale.
    what
        Name of the matrix.
    row_ids
        Ids of its rows.
    counts_in
        Returns what other matrices of the file hold; called only where that may be the cure.
    """
    return [
        *([f"{what}: {found.mixture}"] if found.mixture else []),
        *_of_rows(found, mapping, row_ids),
        *(_of_counts(found, what) if mapping.space == "counts" else []),
        *([f"{what}: {found.doubt}"] if found.doubt else []),
        *_of_scale(found, mapping, what, counts_in),
    ]


def _of_rows(found: Evidence, mapping: ColumnMapping, row_ids: Sequence[str]) -> Iterator[str]:
    if found.empty and not mapping.is_difference:
        yield (
            f"{found.empty} of {len(row_ids)} rows are zero in every gene, as cells without a count are; they count as cells "
            "of their conditions, so leave them out unless they are meant"
        )
    if len(found.repeated):
        later, earlier = (row_ids[int(i)] for i in found.repeated[0])
        yield (
            f"{len(found.repeated)} of {len(row_ids)} rows have exactly the values of another one ({later!r} those of "
            f"{earlier!r}), as where cells were concatenated twice; each counts as a cell, so that noise and ceilings look "
            "better than they are: leave the repeats out"
        )


def _of_counts(found: Evidence, what: str) -> Iterator[str]:
    if found.held is not None and 2 * found.high > found.held:
        yield (
            f"{what} holds counts up to {found.high:.6g} in a type that ends at {found.held}: larger ones would have become "
            "small; write the counts again as int32 or float32 if there were any"
        )
    if found.halved:
        yield (
            f"{what} holds {found.halved} counts above 2,048, and all are numbers that half precision (float16) can hold, so that "
            "others were rounded to these; write the counts again as int32 or float32"
        )


def _of_scale(
    found: Evidence, mapping: ColumnMapping, what: str, counts_in: Callable[[], Sequence[str]]
) -> Iterator[str]:
    if not mapping.is_difference and mapping.space != "counts" and found.inverse is None and not found.whole:
        yield (
            f"whether the values are {mapping.space} could not be confirmed ({found.reason}); if they are not, declare "
            "--space, or read counts"
        )
    if found.depth is not None and found.depth < _SMALL_DEPTH:
        yield (
            f"{what}: {found.reason}, so little that log1p hardly differs from the value itself and common genes decide every "
            "difference; scale rows to 10,000 or so before importing, or import the counts"
        )
    if found.unscaled is not None and found.unscaled == mapping.space:
        where = next((text for text in counts_in() if text.startswith("counts ")), None)
        yield (
            f"{what} is {mapping.space} of counts without depth normalisation: inverted, the values are whole numbers whose "
            "row sums differ, so deltas hold differences in depth; import the counts with --space counts "
            f"({where or 'invert the logarithm and round'})"
        )
    if mapping.space == "delta" and fold_change_like(mapping.layer or ""):
        yield (
            f"{what} reads like log fold changes, which limma, edgeR, DESeq2 and scanpy write to base 2; deltas are differences of "
            "natural logarithms, 0.69 times these: import with --space log2fc unless they are natural ones"
        )
