"""Kind of the numbers of a prediction, delta or expression: as declared, or recognised by the control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.prediction_scale import Scale, scale_of
from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import FloatArray, PredictionKind

# log1p expression lies below this, whatever the depth of sequencing.
_LOG1P_CEILING = 25.0
# A mean has the direction of the control if their angle has this cosine (and, centred over genes, the second one), and
# resembles it if besides its projection on it has at least this length.
_COSINE, _CENTRED, _LENGTH = 0.7, 0.5, 0.5
# A profile that is unlike the control, and whose sorted values are so like those of the control, has them at other genes.
SORTED, MANY_GENES = 0.95, 30
# With less correlation with the control than this, at least some of them are; strong effects of fewer conditions say nothing.
_PARTLY, _FEWEST_CONDITIONS = 0.85, 5
# Control rows of a file of deltas are 0 but for noise; else their mean has this share of the size of the deltas.
_CONTROL_SHARE, _FEWEST_CONTROLS = 0.3, 5
# Share of negative values that no log1p expression has, even with some noise around 0.
_NEGATIVE = 0.1
# Means whose negative values are less than this share of their absolute sum are positive but for noise around 0.
_NOISE = 0.02


@dataclass(frozen=True)
class Decided:
    """What the numbers are, by what (``option``, ``file``, ``recognised`` or ``default``), and what to warn of."""

    kind: PredictionKind
    source: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Similarity:
    """How far predictions are like the control: shares of conditions, and the median Pearson correlation.

    Attributes
    ----------
    direction
        Share of conditions that have the direction of the control, at any length.
    alike
        Share of conditions that have its direction and length.
    correlation
        Median over conditions.
    """

    direction: float = 0.0
    alike: float = 0.0
    correlation: float = float("nan")


def decide(
    *,
    name: str,
    values: Any,
    mean: FloatArray,
    control: FloatArray | None,
    asked: PredictionKind | None,
    stated: PredictionKind | None,
    by_convention: bool,
    of_run: bool,
    scale: str,
    log1p: bool,
) -> Decided:
    """Return what the numbers of a prediction are.

    Parameters
    ----------
    name
        What holds the numbers, for messages.
    values
        Predicted rows [n, G], CSR or dense.
    mean, control
        Predicted mean and matched control of the predicted conditions [C, G]; no control for delta-only data.
    asked, stated
        The kind that the user and that the file declares, None if it does not.
    by_convention
        Whether the format of the file commonly holds expression.
    of_run
        Whether a run wrote the prediction, which are deltas whatever their sign.
    scale
        The scale of the data set, in words.
    log1p
        Whether that is log1p expression, whose changes are bounded.

    Raises
    ------
    PredictionError
        If the numbers do not look like what they are declared or taken to be.
    """
    declared = asked or stated
    beyond = beyond_log1p(name, values) if log1p else None
    source = "option" if asked else "file" if stated else "default"
    if declared == "expression":
        if control is None:
            msg = f"{name} is declared as expression, but the data set has no controls to subtract ({scale}); predict deltas"
            raise PredictionError(msg)
        like = similarity(mean, control)
        return Decided("expression", source, _check_expression(name, values, mean, control, scale, like))
    positive = _is_positive(mean)
    like = Similarity() if control is None else similarity(mean, control)
    shown = f"{name} looks like expression, not like a delta (its correlation with the control is {like.correlation:.2f})"
    if declared == "delta" or of_run:
        # A template says delta of whatever is filled in.
        unsure = asked is None and not of_run and log1p
        if unsure:
            refuse_counts(name, values, scale, hint="--kind delta scores it as it is")
        if asked is None and like.alike > 0.5:
            msg = f"{shown}; give --kind expression, which subtracts the control, --kind delta scores it as it is"
            raise PredictionError(msg)
        if unsure and beyond is not None:
            msg = f"{beyond}; predict differences in {scale}, or give --kind delta to score it as it is"
            raise PredictionError(msg)
        by = "--kind says" if asked else "its file says" if stated else "a run wrote it"
        doubt = (
            [f"{shown}, and is scored as a delta as {by}"]
            if like.direction > 0.5
            else [
                f"no value of {name} is negative, as of expression or fold changes; it is scored as a delta as {by}"
            ]
            if positive and not of_run
            else _some(like)
        )
        if beyond is not None:
            doubt.append(f"{beyond}; it is scored as a delta as {by}")
        return Decided("delta", source, doubt)
    if control is not None and like.alike > 0.5:
        warnings = _check_expression(name, values, mean, control, scale, like)
        if by_convention:
            return Decided("expression", "recognised", warnings)
        msg = f"{shown}; give --kind expression, which subtracts the control (or --kind delta if it is one)"
        raise PredictionError(msg)
    if control is not None:
        refuse_counts(name, values, scale, hint="give --kind delta if it holds differences")
        if like.direction > 0.5:
            _refuse_scale(name, mean, control, scale, like)
    if positive and control is None:
        msg = (
            f"{name} is not like differences (no value is negative, as of expression or fold changes), and the data set "
            f"has no controls to subtract ({scale}); predict deltas, or give --kind delta if these are"
        )
        raise PredictionError(msg)
    if positive:
        msg = (
            f"{name} is neither like the control nor like differences (no value is negative, as of fold changes); "
            "say what it is: --kind expression or --kind delta"
        )
        raise PredictionError(msg)
    if beyond is not None:
        msg = f"{beyond}; predict differences in {scale}, or give --kind delta to score it as it is"
        raise PredictionError(msg)
    return Decided("delta", "recognised" if by_convention else "default", _some(like))


def beyond_log1p(name: str, values: Any) -> str | None:
    """Return what is wrong with differences that log1p expression cannot have, None if they are possible."""
    data = _stored(values)
    low, high = float(np.min(data, initial=0.0)), float(np.max(data, initial=0.0))
    if max(-low, high) <= _LOG1P_CEILING:
        return None
    return (
        f"{name} looks like differences of counts or linear expression (values from {low:.6g} to {high:.6g}; no change of log1p "
        f"expression is beyond {_LOG1P_CEILING:g})"
    )


def _some(like: Similarity) -> list[str]:
    share = like.direction
    return [f"{share:.0%} of the predictions look like expression, not like a delta"] if share > 0 else []


def similarity(mean: FloatArray, control: FloatArray) -> Similarity:
    """Return how far predictions [C, G] are like their control [C, G]."""
    inner = (mean * control).sum(axis=1)
    own, other = np.square(mean).sum(axis=1), np.square(control).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        a = mean - mean.mean(axis=1, keepdims=True)
        b = control - control.mean(axis=1, keepdims=True)
        pearson = (a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    angle = (inner > _COSINE * np.sqrt(own * other)) & (other > 0)
    alike = angle & (inner > _LENGTH * other)
    known = pearson[np.isfinite(pearson)]
    return Similarity(
        # One value for all genes, a change of depth, has the direction of any control.
        direction=float((alike | (angle & (np.nan_to_num(pearson) > _CENTRED))).mean()),
        alike=float(alike.mean()),
        correlation=float(np.median(known)) if len(known) else float("nan"),
    )


def check_control_rows(
    name: str, controls: Sequence[FloatArray], mean: FloatArray, decided: Decided
) -> list[str]:
    """Return what is odd about the control rows of a file of deltas: of differences to the control they are 0 on average.

    Parameters
    ----------
    name
        What holds the numbers.
    controls
        Rows of controls in the file [n, G], of each context.
    mean
        Mean of each predicted condition [C, G].
    decided
        What the numbers are.

    Raises
    ------
    PredictionError
        If they are not, and nothing but the look of the numbers says that these are deltas.
    """
    several = [rows for rows in controls if len(rows) >= _FEWEST_CONTROLS]
    if decided.kind != "delta" or not several:
        return []
    # The mean of n rows of noise has a square of their variance / n.
    squares = [np.square(x.mean(axis=0)) - x.var(axis=0) / (len(x) - 1) for x in several]
    size = max(float(np.square(mean).mean()), 1e-30)
    share = float(np.sqrt(max(float(np.mean(squares)), 0.0) / size))
    if share < _CONTROL_SHARE:
        return []
    text = (
        f"{name} is taken as deltas, but its control rows, which would be 0 on average, have {share:.0%} of the size of its "
        "predictions, as values that were centred or scaled over all cells have"
    )
    if decided.source in ("option", "file"):
        return [text]
    msg = f"{text}; give log1p expression, or differences to the control by --kind delta"
    raise PredictionError(msg)


def sorted_correlation(mean: FloatArray, control: FloatArray) -> float:
    """Return the correlation over genes of mean profiles whose values are sorted, whatever gene each is at."""
    return correlation(np.sort(mean.mean(axis=0)), np.sort(control.mean(axis=0)))


def partly_at_other_genes(name: str, mean: FloatArray, control: FloatArray) -> list[str]:
    """Return whether expression has the values of the control at partly other genes, as a sentence.

    Over conditions, effects average out and exchanged genes do not.

    Parameters
    ----------
    name
        What holds it.
    mean, control
        Expression and matched control [C, G].
    """
    r = correlation(mean.mean(axis=0), control.mean(axis=0))
    alike = sorted_correlation(mean, control)
    if len(mean) < _FEWEST_CONDITIONS or not (r < _PARTLY and alike >= SORTED):
        return []
    return [
        f"the values of {name} are those of the control at partly other genes (correlation {r:.2f}, which would be "
        f"{alike:.2f} with both sorted): are its columns named in their order?"
    ]


def correlation(one: FloatArray, other: FloatArray) -> float:
    """Return the correlation of two profiles, 0 where one is constant."""
    a, b = one - one.mean(dtype=np.float64), other - other.mean(dtype=np.float64)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _stored(values: Any) -> FloatArray:
    data: FloatArray = values.data if sp.issparse(values) else values
    return data


def _share_below(values: Any) -> float:
    size = int(values.shape[0] * values.shape[1])
    return int(np.count_nonzero(_stored(values) < 0)) / max(size, 1)


def _is_positive(mean: FloatArray) -> bool:
    """Return whether means are not all 0, and not negative but for noise."""
    total = float(np.abs(mean).sum())
    return total > 0 and float(-mean[mean < 0].sum()) < _NOISE * total


def _check_expression(
    name: str, values: Any, mean: FloatArray, control: FloatArray, scale: str, like: Similarity
) -> list[str]:
    """Refuse expression that is not in the scale of the data set, or that is not expression; return what to warn of."""
    refuse_counts(name, values, scale, hint="")
    below = _share_below(values)
    if below > _NEGATIVE and like.direction <= 0.5:
        msg = (
            f"{name} is declared as expression, but {below:.0%} of it is negative and it is unlike the control; "
            "differences to the control are --kind delta"
        )
        raise PredictionError(msg)
    if (
        mean.shape[1] >= MANY_GENES
        and like.correlation < _CENTRED
        and sorted_correlation(mean, control) > SORTED
    ):
        msg = (
            f"{name} has the values of expression at other genes than the control (correlation {like.correlation:.2f}); name its "
            "columns in their order"
        )
        raise PredictionError(msg)
    found = scale_of(mean, control)
    if found is None:
        return []
    if not found.fits:
        msg = f"{name} is in another scale than the data set{_named(found)}: {found.sums}; {found.advice(scale)}"
        raise PredictionError(msg)
    out = partly_at_other_genes(name, mean, control) if like.direction > 0.5 else []
    if found.unusual:
        out.append(f"{name} may be in another scale than the data set: {found.sums}")
    elif found.outside:
        out.append(
            f"the expression of {found.outside} of {len(mean)} predictions sums to less than half or more than twice that of "
            "the control after expm1"
        )
    if like.direction <= 0.5:
        out.append(
            f"{name} is unlike the control (their median correlation over genes is {like.correlation:.2f})"
        )
    return out


def _refuse_scale(name: str, mean: FloatArray, control: FloatArray, scale: str, like: Similarity) -> None:
    """Refuse an undeclared prediction that is like the control at another length."""
    found = scale_of(mean, control)
    shown = "" if found is None else f"{_named(found)}: {found.sums}"
    advice = "" if found is None else f"{found.advice(scale)}, or "
    msg = (
        f"{name} looks like expression in another scale{shown}, with a correlation with the control of {like.correlation:.2f}; "
        f"{advice}give --kind delta if it holds differences"
    )
    raise PredictionError(msg)


def _named(found: Scale) -> str:
    return "" if found.other is None else f", {found.other}"


def refuse_counts(name: str, values: Any, scale: str, *, hint: str) -> None:
    """Refuse numbers that look like counts.

    Parameters
    ----------
    name
        What holds the numbers, for the message.
    values
        Predicted rows [n, G], CSR or dense.
    scale
        The scale of the data set, in words.
    hint
        What else to do about it, for the message.

    Raises
    ------
    PredictionError
        If they do.
    """
    data = _stored(values)
    if not data.size or float(data.min()) < -1.0:
        return
    high = float(data.max())
    whole = bool(data.min() >= 0 and (data == np.rint(data)).all())
    # Whole numbers up to 2 can be rounded deltas.
    if high > _LOG1P_CEILING or (whole and high > 2):
        msg = (
            f"{name} looks like counts ({'whole numbers, ' if whole else ''}maximum {high:.6g}); the data set is scored in "
            f"{scale}: bring the prediction to that scale{'; ' + hint if hint else ''}"
        )
        raise PredictionError(msg)
