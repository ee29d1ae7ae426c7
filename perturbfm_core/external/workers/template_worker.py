"""Template of a worker in one file: each perturbation's mean change on the train cells, added to the control.

Copy it, and replace what `predicted` does by your model. It runs as ``python template_worker.py VIEW_DIR OUT_DIR`` in
the environment of your model, and needs nothing of perturbfm there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import anndata
import numpy as np


def predicted(request, train, controls):
    """Return (keys, mean expression [keys, genes], conditions that are not predicted and why).

    Parameters
    ----------
    request
        Content of ``request.json``: what to predict, with which parameters and seed.
    train
        Table of train rows and their controls, log1p.
    controls
        Table of the control cells of the contexts that are asked for.

    Raises
    ------
    ValueError
        If there is nothing to learn from; the host shows the message.
    """
    context, pert = labels(train, "context_id"), labels(train, "pert_id")
    is_control = train.obs["is_control"].to_numpy(bool)
    # Conditions for early stopping stay out of the training.
    fitted = ~is_control & (labels(train, "fold") != "val")
    shift = float(request["params"].get("shift", 1.0))
    base = {c: mean(train.X[is_control & (context == c)]) for c in set(context[is_control])}
    change = {}
    pairs = sorted({(c, p) for c, p in zip(context[fitted], pert[fitted]) if c in base})
    for i, (c, p) in enumerate(pairs):
        change.setdefault(p, []).append(mean(train.X[fitted & (context == c) & (pert == p)]) - base[c])
        print(f"progress: condition {i + 1} of {len(pairs)}", flush=True)
    single = {p: np.mean(deltas, axis=0) for p, deltas in change.items()}
    if not single:
        msg = "no train condition has controls of its context"
        raise ValueError(msg)
    average = np.mean(list(single.values()), axis=0)
    asked_control = {
        c: mean(controls.X[labels(controls, "context_id") == c]) for c in set(labels(controls, "context_id"))
    }
    keys, rows, skipped = [], [], []
    for condition in request["conditions"]:
        start = asked_control.get(condition["context_id"])
        if start is None:
            skipped.append({"condition": condition["key"], "why": "its context has no control cells"})
            continue
        genes = condition["genes"]
        delta = single.get(condition["pert_id"])
        if delta is None:
            # A combination is the sum of its parts; a part that was never perturbed is the average of all.
            delta = np.sum([single.get(g, average) for g in genes], axis=0)
        keys.append(condition["key"])
        rows.append(np.maximum(start + shift * delta, 0.0))
    return keys, np.asarray(rows, dtype=np.float32), skipped


def labels(table, column):
    """Return a column of the row table as text."""
    return table.obs[column].astype(str).to_numpy()


def mean(X):
    """Return the mean of each column of a sparse or dense matrix."""
    return np.asarray(X.mean(axis=0)).ravel()


def replace(path, write):
    """Write a file under another name and rename it, so that nobody finds half of it."""
    hidden = path.with_name("." + path.name + ".tmp")
    with hidden.open("wb") as file:
        write(file)
    os.replace(str(hidden), str(path))


def main(view, out):
    """Read the view, predict, and write ``raw.npz`` and ``raw.json``."""
    began = time.time()
    request = json.loads((view / "request.json").read_text(encoding="utf-8"))
    np.random.default_rng(request["seed"])
    train, controls = (
        anndata.read_h5ad(str(view / "view.h5ad")),
        anndata.read_h5ad(str(view / "query_controls.h5ad")),
    )
    keys, rows, skipped = predicted(request, train, controls)
    about = {
        "format": 1,
        "kind": "expression",
        "space": "log1p",
        "level": "mean",
        "control": "real",
        "versions": {"numpy": np.__version__, "anndata": anndata.__version__},
        "seconds": round(time.time() - began, 2),
        "skipped": skipped,
        "notes": [],
    }
    arrays = {
        "mean": rows,
        "key": np.asarray(keys, dtype=str),
        "genes": np.asarray(request["genes"], dtype=str),
    }
    replace(out / "raw.npz", lambda file: np.savez(file, **arrays))
    replace(out / "raw.json", lambda file: file.write(json.dumps(about, indent=1).encode()))
    report({"conditions": len(keys), "skipped": len(skipped), "seconds": about["seconds"]})


def report(values):
    """Leave a message in the Dagster run that this is part of, if it is and its small package is installed; optional."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        return
    try:
        from dagster_pipes import open_dagster_pipes
    except ImportError:
        return
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message(values)


if __name__ == "__main__":
    view_dir, out_dir = Path(sys.argv[1]), Path(sys.argv[2])
    # There already where perturbfm runs it, and not by hand.
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        main(view_dir, out_dir)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        replace(
            out_dir / "error.json",
            lambda file: file.write(json.dumps({"error": " ".join(text.split())}).encode()),
        )
        raise
