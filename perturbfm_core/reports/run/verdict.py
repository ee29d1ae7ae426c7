"""The verdict on a run in a sentence, no stronger than its intervals allow."""

from __future__ import annotations

from perturbfm_core.leaderboard.bootstrap import MIN_UNITS, Interval
from perturbfm_core.reports.html import number
from perturbfm_core.reports.run.standing import Rival, Standing

_PLURAL = {"context": "contexts"}


def verdict(
    value: float | None, standing: Standing, *, noise_free: float | None = None, no_signal: bool = False
) -> str:
    """Return what is known of a run beside the train mean, the best baseline and the noise-free bound.

    Parameters
    ----------
    value
        Its headline, None where it is undefined.
    standing
        What it is compared with.
    noise_free
        What a predictor without noise would reach, None if unknown.
    no_signal
        Whether the data have no signal, so that nothing is to be concluded.
    """
    if value is None:
        return "The headline metric is undefined, so that this run is not compared with anything."
    parts = [p for p in (_train_mean(standing), _baseline(standing)) if p]
    text = ", and ".join(parts) if parts else "has nothing beside it to be compared with"
    sentences = [f"{text[0].upper()}{text[1:]}."]
    if standing.interval.low is None and standing.n_units < MIN_UNITS and parts:
        sentences.append(_too_few(standing))
    if noise_free is not None and noise_free > 0:
        sentences.append(_reached(value, noise_free))
    if no_signal:
        sentences.insert(0, "The data show no signal here, so that these differences mean nothing.")
    return " ".join(sentences)


def _train_mean(standing: Standing) -> str:
    rival = standing.train_mean
    if rival is None:
        return ""
    if rival.value is None or rival.gain is None:
        return "the train mean has no value in this metric"
    name = "the train mean" + (" (0 in a metric that is centred on it)" if rival.by_definition else "")
    return _beside(rival, name)


def _baseline(standing: Standing) -> str:
    rival = standing.baseline
    if rival is None:
        return "no other baseline with a value was run on this split" if standing.n_baselines == 0 else ""
    n = standing.n_baselines
    which = "the only other baseline run here" if n == 1 else f"the best of {n} other baselines here"
    if rival.gain is None:
        return f"{rival.name} ({which}) has no condition in common"
    return _beside(rival, f"{rival.name} ({which})")


def _beside(rival: Rival, name: str) -> str:
    gain, between = rival.gain or 0.0, rival.gain_interval
    # Sums over conditions leave such differences where the values are the same.
    if abs(gain) < 1e-9 and (between.low is None or max(abs(between.low), abs(between.high or 0)) < 1e-9):
        return f"equals {name}"
    size = f"{number(abs(gain))}{_interval(between, gain)}"
    if between.low is None or between.high is None:
        return f"scores {size} {'better' if gain > 0 else 'worse'} than {name}"
    if between.low <= 0 <= between.high:
        sign = "+" if gain > 0 else "\N{MINUS SIGN}"
        return f"is not told apart from {name}: {sign}{number(abs(gain))}{_interval(between, 1)}"
    return f"{'beats' if gain > 0 else 'is worse than'} {name} by {size}"


def _interval(between: Interval, sign: float) -> str:
    """Return the interval of a difference in brackets, turned where the amount of a loss is named."""
    if between.low is None or between.high is None:
        return ""
    low, high = (between.low, between.high) if sign > 0 else (-between.high, -between.low)
    return f" (95 % interval {_signed(low)} to {_signed(high)})"


def _signed(value: float) -> str:
    return number(value).replace("-", "\N{MINUS SIGN}")


def _too_few(standing: Standing) -> str:
    n = standing.n_units
    what = _PLURAL.get(standing.unit, "perturbed genes")
    return (
        f"There is no interval: the test has {n} of the {what} that were held out, and at least {MIN_UNITS} are needed, "
        "so that any of this may be chance."
    )


def _reached(value: float, noise_free: float) -> str:
    share = value / noise_free
    if share > 1:
        return f"It lies above the estimate of the noise-free bound ({number(noise_free)}), which is itself uncertain."
    if share <= 0:
        return f"The noise-free bound is {number(noise_free)}."
    return f"It reaches {100 * share:.0f} % of the noise-free bound ({number(noise_free)})."
