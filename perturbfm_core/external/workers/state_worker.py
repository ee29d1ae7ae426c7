"""Worker of STATE (arc-state): perturbations that were seen in another context, from sets of control cells.

Trains and infers with the program of the package, which does not stop early: a callback does, where `patience` asks
for it. A training that was ended goes on from its last validation. An unknown perturbation would become control there without an error, so none is asked of it, and cells that come
back untouched are an error here.
This module is longer than 400 lines because a worker is one file beside what all workers share.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from common import (
    Held,
    Labels,
    Output,
    Spent,
    WorkerError,
    dense,
    drawn,
    kept_folder,
    options,
    run,
    set_seed,
    skipped,
    work_folder,
    write_json,
)

CONTROL = "non-targeting"
# A context of copies to validate on, and the most cells of it with and without a perturbation.
COPIES, COPIED = "V0", 256
COLUMNS = {"pert_col": "gene", "cell_type_key": "cell_type", "batch_col": "gem_group"}
BACKBONE = (
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


def _worker(view, out, request):
    """Train on the view, infer on control cells under the labels of the conditions."""
    p = options(
        request,
        model="state_sm",
        steps=40000,
        batch_size=16,
        lr=1e-4,
        weight_decay=5e-4,
        val_freq=2000,
        # Validations without a lower loss after which training stops; none, as in the package, makes all steps.
        patience=None,
        max_cells=256,
        # Sizes of the network; without a value, those of the configuration `model`.
        **dict.fromkeys(("cell_set_len", "hidden_dim", *BACKBONE)),
    )
    table = anndata.read_h5ad(str(view / "view.h5ad"))
    controls = anndata.read_h5ad(str(view / "query_controls.h5ad"))
    output, names = Output(out, request["genes"]), Names(request, table, controls)
    held = Held(request, table.obs, lambda pert, context: {names.pert(pert)})
    todo = _askable(request, controls, names, held, output)
    set_seed(request["seed"])
    with work_folder(out) as folder:
        folder = kept_folder() or folder
        if todo:
            _train(folder, table, names, held, p, request, output)
            _infer(folder, controls, names, todo, p, request, output)
    output.write(level="cell", packages=("arc-state", "cell-load", "torch", "lightning", "anndata"))


class Names:
    """Labels of perturbations, contexts and batches that need no quoting."""

    def __init__(self, request, table, controls):
        self._labels = Labels(request)
        both = pd.concat([table.obs["context_id"].astype(str), controls.obs["context_id"].astype(str)])
        self.contexts = {c: f"C{i}" for i, c in enumerate(sorted(set(both)))}
        self.batches = {b: f"B{i}" for i, b in enumerate(sorted(set(table.obs["batch_id"].astype(str))))}

    def pert(self, pert_id):
        """Return the label of a perturbation."""
        return "x".join(self._labels.parts(pert_id))

    def batch(self, batch_id):
        """Return the label of a batch; one that was not trained on has that of the first, which is not read."""
        return self.batches.get(batch_id, "B0")


def _askable(request, controls, names, held, output):
    """Return the conditions that the model can predict; the others are noted with their reason."""
    with_cells = set(controls.obs["context_id"].astype(str))
    todo = []
    for c in request["conditions"]:
        if names.pert(c["pert_id"]) not in held.seen:
            output.skipped.append(skipped(c, "the perturbation is not seen in training"))
        elif c["context_id"] not in with_cells:
            output.skipped.append(skipped(c, "there are no control cells of the context"))
        elif held.why(c) is not None:
            output.skipped.append(skipped(c, held.why(c)))
        else:
            todo.append(c)
    return todo


def _cells(X, perts, contexts, batches, genes):
    """Return cells as STATE has them: expression in ``obsm["X_hvg"]``."""
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical(perts),
            "cell_type": pd.Categorical(contexts),
            "gem_group": pd.Categorical(batches),
        },
        index=[f"c{i}" for i in range(X.shape[0])],
    )
    X = sp.csr_matrix(X).astype(np.float32)
    a = anndata.AnnData(X=X, obs=obs, var=pd.DataFrame({"gene_name": list(genes)}, index=list(genes)))
    a.obsm["X_hvg"] = dense(X)
    return a


def _train(folder, table, names, held, p, request, output):
    """Train a model, its best state chosen on the validation conditions, else on a copy of some train cells.

    What an earlier attempt left in the folder is gone on with.
    """
    done = folder / "trained.json"
    if done.is_file():
        output.notes += json.loads(done.read_text(encoding="utf-8"))
        return
    notes = []
    is_control = table.obs["is_control"].to_numpy(bool)
    perts = np.array(
        [CONTROL if c else names.pert(q) for q, c in zip(table.obs["pert_id"].astype(str), is_control)]
    )
    contexts = table.obs["context_id"].astype(str).map(names.contexts).to_numpy()
    batches = [names.batch(b) for b in table.obs["batch_id"].astype(str)]
    pairs = sorted(set(zip(contexts[held.rows], perts[held.rows])))
    X, copied = sp.csr_matrix(table.X), []
    if not pairs:
        # STATE needs cells to validate on; a context of copies takes none away from training.
        here = contexts == contexts[np.flatnonzero(~is_control)[0]]
        draws = [drawn(np.flatnonzero(here & c), COPIED, request["seed"]) for c in (is_control, ~is_control)]
        copied = np.concatenate(draws)
        X, perts = sp.vstack([X, X[copied]]).tocsr(), np.concatenate([perts, perts[copied]])
        contexts = np.concatenate([contexts, np.repeat(COPIES, len(copied))])
        batches += [batches[i] for i in copied]
        notes.append("no validation conditions: the checkpoint is chosen on train cells")
    (folder / "data").mkdir(exist_ok=True)
    _cells(X, perts, contexts, batches, request["genes"]).write_h5ad(str(folder / "data" / "view.h5ad"))
    lines = [
        "[datasets]",
        "view = {}".format(json.dumps(str(folder / "data"))),
        "[training]",
        'view = "train"',
        "[zeroshot]",
        *([f'"view.{COPIES}" = "val"'] if len(copied) else []),
    ]
    for context in sorted({c for c, _ in pairs}):
        lines += [
            f'[fewshot."view.{context}"]',
            f"val = {json.dumps([q for c, q in pairs if c == context])}",
        ]
    (folder / "split.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    every = min(int(p["val_freq"]), int(p["steps"]))
    record, resumed = folder / "validations.txt", state_left(folder / "run")
    if not resumed:
        record.write_text("", encoding="utf-8")
    settings = {
        "data.kwargs.toml_config_path": folder / "split.toml",
        "data.kwargs.embed_key": "X_hvg",
        "data.kwargs.output_space": "gene",
        "data.kwargs.num_workers": 0,
        "data.kwargs.pin_memory": "false",
        "data.kwargs.control_pert": CONTROL,
        **{f"data.kwargs.{k}": v for k, v in COLUMNS.items()},
        "model": p["model"],
        "model.device": "cpu",
        "training.max_steps": int(p["steps"]),
        "training.batch_size": int(p["batch_size"]),
        "training.lr": p["lr"],
        "training.weight_decay": p["weight_decay"],
        "training.val_freq": every,
        "training.ckpt_every_n_steps": every,
        "training.train_seed": request["seed"],
        "use_wandb": "false",
        "overwrite": "false" if resumed else "true",
        "output_dir": folder,
        "name": "run",
        **{f"model.kwargs.{k}": p[k] for k in ("cell_set_len", "hidden_dim") if p[k] is not None},
        **{f"model.kwargs.transformer_backbone_kwargs.{k}": p[k] for k in BACKBONE if p[k] is not None},
    }
    _state(folder, "train", *(f"{k}={v}" for k, v in settings.items()), watching=(p["patience"], str(record)))
    notes += reported(record.read_text(encoding="utf-8"), p)
    write_json(done, notes)
    output.notes += notes


def state_left(run):
    """Return whether an earlier attempt left a state that training can go on from, as the one that STATE looks for.

    A state whose writing was cut short is removed; the best one takes the place of the last.
    """
    best, last = (run / "checkpoints" / n for n in ("best.ckpt", "last.ckpt"))
    for state in (best, last):
        if state.is_file() and not zipfile.is_zipfile(str(state)):
            state.unlink()
    if best.is_file() and not last.is_file():
        shutil.copyfile(str(best), str(run / "copied"))
        (run / "copied").replace(last)
    return last.is_file()


def reported(record, p):
    """Return what training wrote of its validations, as notes: steps made, the best one, and whether it stopped early."""
    # A step that was validated again after an interruption counts as it came out then.
    seen = {
        int(n): float(loss) for n, loss in re.findall(r"^validated: step (\d+), loss (\S+)$", record, re.M)
    }
    if not seen:
        return []
    loss, step = min((loss, step) for step, loss in seen.items())
    last = max(seen)
    early = (
        f"; stopped after {p['patience']} validations without a lower one" if last < int(p["steps"]) else ""
    )
    resumed = re.findall(r"^resumed: step (\d+)$", record, re.M)
    again = [f"interrupted, and gone on with from step {', '.join(resumed)}"] if resumed else []
    return [f"{last} of {p['steps']} steps, lowest validation loss {loss:.5g} at step {step}{early}", *again]


def watch(patience, record):
    """Let training print its steps, append its validations to a file, and stop after `patience` without a lower loss."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

    class Watching(Callback):
        shown, loss = 0.0, ""

        def on_train_start(self, trainer, module):
            self.spent = Spent(Path(record).parent)
            if trainer.global_step:
                self._write(f"resumed: step {trainer.global_step}")

        def on_train_batch_end(self, trainer, *_):
            if time.time() - self.shown > 2:
                self.shown = time.time()
                print(f"\ntrained: {trainer.global_step} of {trainer.max_steps}{self.loss}", flush=True)

        def on_validation_end(self, trainer, module):
            if not trainer.sanity_checking:
                loss = float(trainer.callback_metrics["val_loss"])
                self.loss = f", validation loss {loss:.4g}"
                self._write(f"validated: step {trainer.global_step}, loss {loss}")
                self.spent.write()

        @staticmethod
        def _write(line):
            with Path(record).open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    _follow_moves(ModelCheckpoint)
    trainer = pl.Trainer
    more = [Watching()]
    if patience is not None:
        more.append(EarlyStopping("val_loss", mode="min", patience=int(patience)))

    def watched(*args, callbacks=None, **kwargs):
        return trainer(*args, callbacks=[*(callbacks or ()), *more], **kwargs)

    pl.Trainer = watched


def _follow_moves(checkpoints):
    """Let states that were moved be gone on with: the best one so far is known, and no new one is written beside it.

    Lightning compares the folder in a state with its own, and where they differ forgets which state was the best.
    """
    load = checkpoints.load_state_dict

    def load_state_dict(self, state):
        def here(path):
            return os.path.join(self.dirpath, os.path.basename(path)) if path else path

        moved = dict(state, dirpath=self.dirpath)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = here(state.get(name, ""))
        moved["best_k_models"] = {here(path): score for path, score in state.get("best_k_models", {}).items()}
        load(self, moved)

    checkpoints.load_state_dict = load_state_dict


def _infer(folder, controls, names, todo, p, request, output):
    """Add the predictions of the conditions, and of control itself as the model's own control."""
    where = controls.obs["context_id"].astype(str).to_numpy()
    rows = {
        c: drawn(np.flatnonzero(where == c), p["max_cells"], request["seed"])
        for c in sorted({c["context_id"] for c in todo})
    }
    blocks = [("c" + context, CONTROL, context) for context in rows]
    blocks += [("p" + c["key"], names.pert(c["pert_id"]), c["context_id"]) for c in todo]
    sizes = [len(rows[context]) for _, _, context in blocks]
    taken = np.concatenate([rows[context] for _, _, context in blocks])
    a = _cells(
        sp.csr_matrix(controls.X)[taken],
        np.repeat([q for _, q, _ in blocks], sizes),
        np.repeat([names.contexts[c] for _, _, c in blocks], sizes),
        [names.batch(b) for b in controls.obs["batch_id"].astype(str).to_numpy()[taken]],
        request["genes"],
    )
    a.write_h5ad(str(folder / "infer.h5ad"))
    states = folder / "run" / "checkpoints"
    found = [states / n for n in ("best.ckpt", "final.ckpt", "last.ckpt") if (states / n).is_file()]
    if not found:
        msg = "STATE has written no checkpoint"
        raise WorkerError(msg)
    printed = _state(
        folder, "infer", "--model-dir", folder / "run", "--checkpoint", found[0], "--adata", folder / "infer.h5ad",
        "--embed-key", "X_hvg", "--pert-col", "gene", "--celltype-col", "cell_type", "--batch-col", "gem_group",
        "--control-pert", CONTROL, "--output", folder / "predicted.h5ad", "--seed", request["seed"],
    )  # fmt: skip
    if "control fallback" in printed:
        msg = "STATE has put control in place of a perturbation that it does not know"
        raise WorkerError(msg)
    done = anndata.read_h5ad(str(folder / "predicted.h5ad"))
    values = np.asarray(done.obsm["X_hvg"])
    if "X_state_pred" in done.obsm or values.shape != a.shape:
        msg = "STATE predicts another number of values than there are genes"
        raise WorkerError(msg)
    key = np.repeat([k for k, _, _ in blocks], sizes)
    same = np.abs(values - a.obsm["X_hvg"]).max(axis=1) == 0
    for c in todo:
        of = key == "p" + c["key"]
        if same[of].any():
            msg = f"STATE has returned {same[of].sum()} of {of.sum()} input cells of {c['key']} untouched"
            raise WorkerError(msg)
        own = values[key == "c" + c["context_id"]].mean(axis=0)
        output.add(c["key"], values[of].mean(axis=0), control=own, n_cells=int(of.sum()))
    output.notes.append(f"checkpoint {found[0].stem}")


def _state(folder, verb, *arguments, watching=None):
    """Run one verb of STATE's program, with its progress passed on; return what it printed.

    Parameters
    ----------
    folder
        Where it runs.
    verb, *arguments
        The verb, and what it is given.
    watching
        Arguments of `watch`, for a training.
    """
    first = f"from state_worker import watch; watch{watching!r}; " if watching is not None else ""
    variables = dict(
        os.environ, WANDB_MODE="disabled", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", PYTHONUNBUFFERED="1"
    )
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.append({str(Path(__file__).resolve().parent)!r}); {first}from state.__main__ import main; main()",
        "tx",
        verb,
        *map(str, arguments),
    ]
    child = subprocess.Popen(  # noqa: S603 - this interpreter, the model's own program
        command,
        cwd=str(folder),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    kept, shown = [], 0.0
    for text in _pieces(child.stdout):
        kept.append(text)
        # A training shows its steps; the bar of its epochs has no end.
        counted = re.search(r"^trained: (.*)" if watching else r"(\d+/\d+) ", text)
        if counted and time.time() - shown > 2:
            shown = time.time()
            what = "train step" if watching else verb
            print(f"progress: {what} {counted[1].replace('/', ' of ')}", flush=True)
    if child.wait():
        sys.stderr.write("\n".join(kept[-60:]) + "\n")
        errors = [t for t in kept if re.match(r"[A-Za-z_.]*(Error|Exception)\b", t)]
        msg = f"state tx {verb} fails: {(errors or kept or ['no output'])[-1]}"
        raise WorkerError(msg)
    return "\n".join(kept)


def _pieces(stream):
    """Yield what a program prints, cut at ends of lines and at returns to their beginning."""
    rest = b""
    while True:
        block = stream.read1(65536)
        if not block:
            break
        *whole, rest = re.split(rb"[\r\n]+", rest + block)
        yield from (t for t in (w.decode("utf-8", "replace").strip() for w in whole) if t)
    if rest.strip():
        yield rest.decode("utf-8", "replace").strip()


if __name__ == "__main__":
    run(_worker)
