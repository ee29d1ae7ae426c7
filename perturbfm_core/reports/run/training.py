"""The course of a fit: learning curves with the epoch that was kept, what the gate decided, and settings that were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perturbfm_core.reports.html import number
from perturbfm_core.reports.run.values import one

MOST_EPOCHS = 240
MOST_CURVES = 12


def training_data(training: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return curves, gates and settings from the content of ``training.json``; empty without one.

    Returns
    -------
    dict
        ``curves``: per training its name, epochs, loss, validation, kept epoch, and a sentence on how it ended;
        ``gates``: per gate a sentence and its numbers; ``settings``: (name, value) of what else was recorded.
    """
    found = list(_parts("", training or {}))
    curves = [_curve(name, part) for name, part in found if "curves" in part and "best_epoch" in part]
    gates = [gate_of(name, part["gate"]) for name, part in found if isinstance(part.get("gate"), dict)]
    settings = [pair for name, part in found if "curves" not in part for pair in _settings(name, part)]
    return {
        "curves": [c for c in curves[:MOST_CURVES] if c["epochs"]],
        "left_out": max(len(curves) - MOST_CURVES, 0),
        "gates": gates,
        "settings": settings,
    }


def _parts(name: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every dict of a record with the path to it, a training by its phase."""
    if isinstance(value, dict):
        yield name, value
        for key, inner in value.items():
            if key not in ("curves", "gate"):
                yield from _parts(f"{name}, {key}" if name else str(key), inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            if isinstance(inner, dict):
                label = inner.get("phase") or f"{name} {i + 1}"
                yield from _parts(str(label) if not name or "phase" in inner else f"{name} {i + 1}", inner)


def _curve(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    curves = part["curves"]
    n = max((len(v) for v in curves.values()), default=0)
    step = -(-n // MOST_EPOCHS) or 1
    best = int(part["best_epoch"])
    # The kept epoch stays, whichever are left out.
    at = sorted({*range(0, n, step), *([n - 1] if n else []), *([best - 1] if 0 < best <= n else [])})

    def taken(key: str) -> list[float | None] | None:
        values = curves.get(key)
        return None if not values or all(v is None for v in values) else [one(values[i]) for i in at]

    return {
        "name": name or "fit",
        "epochs": [i + 1 for i in at],
        "loss": taken("loss"),
        "validation": taken("validation"),
        "best": best,
        "ending": [name or "fit", _ended(part)],
    }


def _ended(part: Mapping[str, Any]) -> str:
    run, planned, best = part.get("epochs"), part.get("epochs_planned"), part["best_epoch"]
    score = part.get("best_score")
    if part.get("stopped_early"):
        text = f"stopped early after {run} of {planned} epochs; kept epoch {best}"
    elif score is not None:
        text = f"ran all {run} epochs; kept epoch {best}"
    else:
        text = f"ran {run} epochs, without validation"
    return text if score is None else f"{text}, validation {number(score)}"


def gate_of(name: str, gate: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a gate decided, and by how much it opened or missed, as a sentence and (part, value) pairs."""
    factors = [float(g) for g in gate.get("g") or ()]
    opened = any(factors)
    gain, error, reason = gate.get("gain"), gate.get("standard_error"), str(gate.get("reason", ""))
    tried = [t for t in gate.get("tried") or () if isinstance(t, dict)]
    state = "open" if opened else "closed"
    text = (
        f"The gate of the network is {state}: {reason}." if reason else f"The gate of the network is {state}."
    )
    if opened and gain is not None and error is not None and "switched" not in reason:
        text += (
            f" Mean gain {_short(gain)} in centred Pearson correlation over the core, out of fold, "
            f"{_short(gain - error)} more than the standard error of {_short(error)} that it had to exceed."
        )
    elif not opened and gain is not None and not tried:
        text += " By how much it missed was not recorded."
    return {
        "name": name,
        "open": opened,
        "text": text,
        "factors": [number(f) for f in factors],
        "groups": gate.get("groups"),
        "tried": [_attempt(t) for t in tried],
    }


def _attempt(tried: Mapping[str, Any]) -> dict[str, Any]:
    """Return one part that a gate tried to open."""
    gain, error = float(tried["gain"]), float(tried["standard_error"])
    margin, fell = gain - error, bool(tried.get("error_fell", True))
    if margin > 0 and fell:
        text = f"opened with {_short(margin)} to spare"
    elif margin > 0:
        text = "kept closed: the correlation rose, but the squared error did not fall"
    else:
        text = f"kept closed: missed by {_short(-margin)}"
    return {"row": [str(tried.get("part", "")), _short(gain), _short(error), text]}


def _short(value: float) -> str:
    """Return three significant digits: gains may be small."""
    return f"{value:.3g}"


def _settings(name: str, part: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the plain values of a record."""
    out = []
    for key, value in part.items():
        if isinstance(value, bool | str) or value is None:
            text = str(value)
        elif isinstance(value, int | float):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
        elif isinstance(value, list) and value and all(isinstance(v, int | float | str) for v in value):
            shown = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value[:12])
            text = shown + (f", {len(value) - 12} more" if len(value) > 12 else "")
        else:
            continue
        out.append((f"{name}: {key}" if name else str(key), text))
    return out
