"""Parts that every worker shares: the request, progress, the output, errors.

Needs Python 3.8 and numpy only, and is imported from the folder of the worker, in the model's own environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

CONTROL = "ctrl"


class WorkerError(Exception):
    """The model cannot do what is asked; the message is one line for the user."""


def run(work):
    """Call ``work(view, out, request)`` with the two folders of the command line.

    What it raises ends the process with exit code 1, and is left as one line in ``error.json`` of the output folder.
    """
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {Path(sys.argv[0]).name} VIEW_DIR OUT_DIR")
    view, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        request = json.loads((view / "request.json").read_text(encoding="utf-8"))
        if request.get("format") != 1:
            msg = f"request.json has format {request.get('format')!r}; this worker reads 1"
            raise WorkerError(msg)
        work(view, out, request)
    except BaseException as error:  # noqa: BLE001 - the host shows whatever ended the model
        if isinstance(error, SystemExit) and not error.code:
            return
        traceback.print_exc()
        text = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
        write_json(out / "error.json", {"error": " ".join(text.split())[:500]})
        sys.exit(1)


def options(request, **defaults):
    """Return the parameters of a request over the model's defaults.

    Raises
    ------
    WorkerError
        If the request has one that the model does not.
    """
    given = request.get("params") or {}
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        msg = f"unknown parameter {unknown[0]!r}; there are {', '.join(sorted(defaults))}"
        raise WorkerError(msg)
    return {**defaults, **given}


def threads():
    """Return the number of threads that the host allows."""
    return max(int(os.environ.get("OMP_NUM_THREADS") or 1), 1)


def set_seed(seed):
    """Seed Python's, numpy's and, where it is loaded, torch's random numbers, and keep torch to its threads."""
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        torch.set_num_threads(threads())


def progress(done, total, loss=None, what="epoch"):
    """Print one line of progress for the host.

    Parameters
    ----------
    done, total
        Number of this step, from 1, and of all of them.
    loss
        Loss after it.
    what
        What is counted.
    """
    tail = "" if loss is None else f" loss {loss:.4g}"
    print(f"progress: {what} {done} of {total}{tail}", flush=True)


@contextlib.contextmanager
def work_folder(out):
    """Make a fresh folder for what the model writes, stay in it, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix=".work-", dir=str(out)))
    before = Path.cwd()
    os.chdir(str(folder))
    try:
        yield folder
    finally:
        os.chdir(str(before))
        shutil.rmtree(str(folder), ignore_errors=True)


def kept_folder():
    """Return the folder that a later attempt at the same fit finds as this one leaves it; None where there is none.

    The host names it (``PERTURBFM_KEPT``), and removes it once there is an output.
    """
    name = os.environ.get("PERTURBFM_KEPT")
    return Path(name) if name else None


class Spent:
    """Time of this attempt and of those that it goes on from, which the host adds to the cost of the next one.

    Parameters
    ----------
    kept
        The folder of `kept_folder`.
    """

    def __init__(self, kept):
        self._file, self._start = Path(kept) / "spent.json", time.time()
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else "{}"
        self._before = json.loads(text)

    def write(self):
        """Write the time so far, when there is something that the next attempt can go on from."""
        now = {"seconds": time.time() - self._start, "cpu_s": time.process_time()}
        write_json(self._file, {k: self._before.get(k, 0.0) + v for k, v in now.items()})


def parts_of(request, pert_id):
    """Return what a perturbation consists of: its genes, or its own name where it has none."""
    known = request.get("perturbation_genes") or {}
    for condition in request["conditions"]:
        known.setdefault(condition["pert_id"], condition.get("genes") or [])
    return list(known.get(pert_id) or pert_id.split("+"))


class Labels:
    """Names that every model can take (no ``+``, ``_`` or space) in place of those of genes and perturbations."""

    def __init__(self, request):
        self._request, self._names = request, {}
        for gene in request["genes"]:
            self.part(gene)

    def part(self, name):
        """Return the label of a gene, or of a perturbation that is none."""
        return self._names.setdefault(name, f"G{len(self._names)}")

    def parts(self, pert_id):
        """Return the labels of what a perturbation consists of, in one order whatever order it was named in."""
        return sorted((self.part(p) for p in parts_of(self._request, pert_id)), key=lambda p: int(p[1:]))


class Held:
    """Validation rows of a view that a model may do without.

    A test or calibration condition may need what only a validation condition has (its perturbation, where a split has
    no validation of its own and an inner fold stands in): such validation conditions are trained on, and are not
    predicted, as nothing could be fitted on what was learnt.

    Parameters
    ----------
    request
        The request.
    obs
        Rows of the view.
    needs
        From (perturbation, context) to the set of what must have been seen to predict it.
    """

    def __init__(self, request, obs, needs):
        perts, contexts = obs["pert_id"].astype(str).to_numpy(), obs["context_id"].astype(str).to_numpy()
        perturbed, val = ~obs["is_control"].to_numpy(bool), obs["fold"].astype(str).to_numpy() == "val"
        free = set(zip(perts[perturbed & ~val], contexts[perturbed & ~val]))
        self.seen = set().union(*(needs(*pair) for pair in free))
        asked = [c for c in request["conditions"] if c.get("role") != "validation"]
        wanted = set().union(*(needs(c["pert_id"], c["context_id"]) for c in asked))
        self.trained = set()
        for pair in sorted(set(zip(perts[perturbed & val], contexts[perturbed & val]))):
            if needs(*pair) & (wanted - self.seen):
                self.seen |= needs(*pair)
                self.trained.add(pair)
        taken = np.array([pair in self.trained for pair in zip(perts, contexts)], dtype=bool)
        self.rows = val & perturbed & ~taken

    def why(self, condition):
        """Return why a condition is not predicted although the model could, None if it is."""
        pair = (condition["pert_id"], condition["context_id"])
        if condition.get("role") == "validation" and pair in self.trained:
            return "trained on, as test conditions need it"
        return None


def dense(X):
    """Return a matrix as a dense float32 array."""
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float32)


def drawn(rows, limit, seed):
    """Return at most `limit` of some rows, drawn with a seed, in their order.

    Parameters
    ----------
    rows
        Numbers of the rows.
    limit
        The most that are taken; 0 takes all.
    seed
        Seed of the draw.
    """
    rows = np.asarray(rows)
    if not limit or len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


def skipped(condition, why):
    """Return the note that a condition is not predicted."""
    return {"condition": condition["key"], "why": why}


def versions(*packages):
    """Return the versions of Python and of installed packages."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def write_json(path, value):
    """Write a JSON file in one step."""
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(str(hidden), str(path))


class Output:
    """What a worker predicts, one condition after the other.

    Parameters
    ----------
    out
        Output folder.
    genes
        Genes of the predictions, in order.
    """

    def __init__(self, out, genes):
        self._out, self._genes, self._began = out, [str(g) for g in genes], time.time()
        self._rows = []
        self.skipped, self.notes = [], []

    def add(self, key, mean, control=None, n_cells=0):
        """Add the prediction of one condition.

        Parameters
        ----------
        key
            The condition's key of the request.
        mean
            Mean expression of each gene.
        control
            Mean expression that the model itself gives for control cells.
        n_cells
            Number of predicted cells that `mean` is of, 0 where the model predicts means.
        """
        self._rows.append((str(key), mean, control, n_cells))

    def write(self, *, level, packages, kind="expression", space="log1p"):
        """Write ``raw.npz`` and then ``raw.json``.

        Parameters
        ----------
        level
            ``cell`` or ``mean``: what the model predicts.
        packages
            Packages whose versions are recorded.
        kind
            ``expression`` or ``delta``.
        space
            Space of the values.

        Raises
        ------
        WorkerError
            If nothing is predicted, or not all values are finite.
        """
        if not self._rows:
            why = "; ".join(sorted({s["why"] for s in self.skipped})) or "none is asked for"
            msg = f"no condition can be predicted: {why}"
            raise WorkerError(msg)
        own = all(control is not None for _, _, control, _ in self._rows)
        arrays = {
            "mean": np.asarray([mean for _, mean, _, _ in self._rows], dtype=np.float32),
            "key": np.asarray([key for key, _, _, _ in self._rows], dtype=str),
            "genes": np.asarray(self._genes, dtype=str),
        }
        if own:
            arrays["control"] = np.asarray([c for _, _, c, _ in self._rows], dtype=np.float32)
        if all(n for _, _, _, n in self._rows):
            arrays["n_cells"] = np.asarray([n for _, _, _, n in self._rows], dtype=np.int64)
        bad = [k for k, row in zip(arrays["key"], arrays["mean"]) if not np.isfinite(row).all()]
        if bad:
            msg = f"the model predicts values that are not finite for {len(bad)} conditions, such as {bad[0]}"
            raise WorkerError(msg)
        hidden = self._out / ".raw.npz.tmp"
        with hidden.open("wb") as handle:
            np.savez(handle, **arrays)
        os.replace(str(hidden), str(self._out / "raw.npz"))
        write_json(
            self._out / "raw.json",
            {
                "format": 1,
                "kind": kind,
                "space": space,
                "level": level,
                "control": "own" if own else "real",
                "versions": versions("numpy", *packages),
                "seconds": round(time.time() - self._began, 1),
                "skipped": self.skipped,
                "notes": self.notes,
            },
        )
