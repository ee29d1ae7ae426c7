"""Texts of the leaderboard page about metrics, entries, data sets and kinds of split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from perturbfm_core.catalog.loading import Catalog
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.evaluation.probes import ATTACKS
from perturbfm_core.splits.draft import KINDS


def about_metrics(metrics: pd.DataFrame, games: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return one record per metric: direction, target, bounds, what it is, its source, and what raises it.

    Parameters
    ----------
    metrics
        Table of panel, metric, direction, version.
    games
        Rows of attack, panel, metric, cases, of, entry, before, after: attacks that improved a metric.
    """
    by_metric: dict[str, list[dict[str, str]]] = {}
    for row in games:
        attack = row["attack"]
        text = ATTACKS.get(attack).description if attack in ATTACKS else attack
        numbers = {name: row[name] for name in ("cases", "of", "entry", "before", "after")}
        by_metric.setdefault(f"{row['panel']}.{row['metric']}", []).append({"what": text, **numbers})
    out = []
    for row in metrics.itertuples(index=False):
        full = f"{row.panel}.{row.metric}"
        record: dict[str, Any] = {
            "panel": row.panel,
            "name": row.metric,
            "direction": row.direction,
            "version": row.version,
        }
        if full in METRICS:
            m = METRICS.get(full)
            record |= {
                "what": m.description,
                "source": m.source,
                "bounds": list(m.bounds),
                "target": m.target,
                "best": m.best,
                "undefined": m.undefined,
                "needs": m.needs,
                "aggregate": m.aggregate,
            }
        out.append({**record, "games": by_metric.get(full, [])})
    return out


def about_panels(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one record per panel that has scores: its name, source and headline."""
    names = list(dict.fromkeys(metrics["panel"]))
    known = {name: panel for name, panel in PANELS.items() if name in names}
    return [
        {"name": n, "source": known[n].source, "headline": known[n].headline} if n in known else {"name": n}
        for n in names
    ]


def about_entries(names: list[str], cells: pd.DataFrame, runs: pd.DataFrame, catalog: Catalog) -> list[Any]:
    """Return one record per entry: family, model, and what the catalog or its submission says of it.

    Parameters
    ----------
    names
        The entries.
    cells, runs
        Tables of the entries on boards and of their runs.
    catalog
        The catalog.
    """
    first = cells.drop_duplicates("entry", keep="last").set_index("entry")
    own = runs.drop_duplicates("entry", keep="last").set_index("entry")
    screens = set(runs.loc[runs["uses_other_screens"].eq(True), "entry"])
    out = []
    for name in names:
        record: dict[str, Any] = {"name": name, "family": text(first["family"].get(name))}
        record["model"] = text(first["model"].get(name))
        record |= {k: text(own[k].get(name)) for k in ("note", "url") if k in own}
        said = runs.loc[runs["entry"].eq(name) & runs["warned_of"].notna(), "warned_of"]
        record["warnedOf"] = "; ".join(dict.fromkeys(map(str, said)))
        record["usesOtherScreens"] = name in screens
        entry = catalog.models.get(name)
        if entry is not None:
            record |= {"what": entry.description, "inputs": entry.inputs}
            record["params"] = {k: str(v)[:80] for k, v in entry.params.items()}
        out.append({k: v for k, v in record.items() if v})
    return out


def about_datasets(datasets: pd.DataFrame, names: list[str], catalog: Catalog) -> list[dict[str, Any]]:
    """Return one record per data set: size, origin, licence, and what the catalog says of it.

    Parameters
    ----------
    datasets
        Table of the data sets at hand.
    names
        Data sets of the boards.
    catalog
        The catalog.
    """
    rows = {text(r["dataset"]): r for r in datasets.to_dict(orient="records") if r.get("dataset") is not None}
    out = []
    for name in names:
        row = rows.get(name, {})
        record: dict[str, Any] = {"name": name}
        record |= {k: text(row.get(k)) for k in ("level", "space", "source", "licence", "data_sha256")}
        record |= {k: whole(row.get(k)) for k in ("n_obs", "n_genes")}
        entry = catalog.datasets.get(name)
        record["what"] = entry.description if entry is not None else None
        out.append({k: v for k, v in record.items() if v is not None and v != ""})
    return out


def about_kinds(names: Iterable[str]) -> dict[str, str]:
    """Return {kind of split: what it holds out}."""
    return {n: KINDS.get(n).description.replace("`", "") for n in names if n in KINDS}


def text(value: Any) -> str | None:
    """Return a cell of a table as text, None where it is missing."""
    return None if value is None or pd.isna(value) else str(value)


def whole(value: Any) -> int | None:
    """Return a cell of a table as a whole number, None where it is missing."""
    return None if value is None or pd.isna(value) else int(value)
