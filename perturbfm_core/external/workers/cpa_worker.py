"""Worker of CPA (cpa-tools): perturbations and combinations whose parts, and contexts that, were seen in training."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import anndata
import numpy as np
import pandas as pd
from common import (
    CONTROL,
    Held,
    Labels,
    Output,
    dense,
    drawn,
    options,
    progress,
    run,
    set_seed,
    skipped,
    work_folder,
)


def _worker(view, out, request):
    """Fit one model and predict the conditions from their control cells."""
    p = options(
        request,
        epochs=400,
        n_latent=128,
        n_hidden=256,
        n_layers=3,
        batch_size=128,
        lr=5e-4,
        patience=10,
        check_every=10,
        max_cells=300,
    )
    warnings.filterwarnings("ignore")
    table = anndata.read_h5ad(str(view / "view.h5ad"))
    controls = anndata.read_h5ad(str(view / "query_controls.h5ad"))
    labels, output = Labels(request), Output(out, request["genes"])
    with work_folder(out) as folder:
        set_seed(request["seed"])
        # A part without training data has a row of the embedding that is random.
        held = Held(request, table.obs, lambda pert, context: set(labels.parts(pert)))
        perturbed = table.obs["pert_id"].astype(str).to_numpy()[~table.obs["is_control"].to_numpy(bool)]
        known = set(table.obs["context_id"].astype(str).to_numpy()[~held.rows])
        longest = max([len(labels.parts(q)) for q in set(perturbed)] + [2])
        todo = _askable(request, labels, held, known, longest, controls, output)
        if not todo:
            output.write(level="cell", packages=())
        joined = _joined_cells(table, controls, todo, labels, held, request, p["max_cells"])
        model, predicted = _fitted(joined, p, request["seed"], longest, folder)
        model.predict(joined, batch_size=512)
        values, key = np.asarray(joined.obsm["CPA_pred"]), joined.obs["key"].astype(str).to_numpy()
        for condition in todo:
            rows = key == "p" + condition["key"]
            own = values[key == "c" + condition["context_id"]].mean(axis=0)
            output.add(condition["key"], values[rows].mean(axis=0), control=own, n_cells=int(rows.sum()))
        output.notes += predicted
    output.write(level="cell", packages=("cpa-tools", "scvi-tools", "torch", "anndata"))


def _askable(request, labels, held, known, longest, controls, output):
    """Return the conditions that the model can predict; the others are noted with their reason."""
    with_cells = set(controls.obs["context_id"].astype(str))
    todo = []
    for c in request["conditions"]:
        parts = labels.parts(c["pert_id"])
        if not set(parts) <= held.seen:
            output.skipped.append(skipped(c, "a gene of the perturbation is not seen in training"))
        elif len(parts) > longest:
            output.skipped.append(skipped(c, "no combination of so many genes is seen in training"))
        elif c["context_id"] not in known:
            output.skipped.append(skipped(c, "the context is not seen in training"))
        elif c["context_id"] not in with_cells:
            output.skipped.append(skipped(c, "there are no control cells of the context"))
        elif held.why(c) is not None:
            output.skipped.append(skipped(c, held.why(c)))
        else:
            todo.append(c)
    return todo


def _joined_cells(table, controls, todo, labels, held, request, max_cells):
    """Return the train cells and, for every condition, control cells under its label: CPA registers them together."""
    perts, is_control = table.obs["pert_id"].astype(str).to_numpy(), table.obs["is_control"].to_numpy(bool)
    split = np.where(held.rows, "valid", "train")
    if not held.rows.any():
        tenth = np.random.default_rng(request["seed"]).permutation(len(split))[: max(len(split) // 10, 1)]
        split[tenth] = "valid"
    names = [CONTROL if c else "+".join(labels.parts(q)) for q, c in zip(perts, is_control)]
    blocks = [(table.X, names, table.obs["context_id"].astype(str).to_numpy(), split, "train")]
    where = controls.obs["context_id"].astype(str).to_numpy()
    rows = {
        c: drawn(np.flatnonzero(where == c), max_cells, request["seed"])
        for c in sorted({c["context_id"] for c in todo})
    }
    asked = [("c" + c, CONTROL, c) for c in rows]
    asked += [("p" + c["key"], "+".join(labels.parts(c["pert_id"])), c["context_id"]) for c in todo]
    for key, name, context in asked:
        n = len(rows[context])
        blocks.append((controls[rows[context]].X, [name] * n, [context] * n, ["ood"] * n, key))
    obs = pd.concat(
        [pd.DataFrame({"cond": n, "ct": list(ct), "split": list(s), "key": k}) for _, n, ct, s, k in blocks],
        ignore_index=True,
    )
    obs["dose"] = ["+".join(["1.0"] * len(n.split("+"))) for n in obs["cond"]]
    obs.index = [f"c{i}" for i in range(len(obs))]
    X = np.concatenate([dense(b[0]) for b in blocks])
    return anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(index=list(table.var_names)))


def _fitted(joined, p, seed, longest, folder):
    """Return the trained model and notes on its training."""
    try:
        import tkinter  # noqa: F401 - cpa imports a constant of it by mistake
    except ImportError:
        stand_in = types.ModuleType("tkinter")
        stand_in.N = "n"
        sys.modules["tkinter"] = stand_in
    import cpa
    import scvi
    from pytorch_lightning.callbacks import Callback

    class Listener(Callback):
        def on_train_epoch_end(self, trainer, module):
            progress(trainer.current_epoch + 1, p["epochs"])

    scvi.settings.seed = seed
    set_seed(seed)
    cpa.CPA.setup_anndata(
        joined,
        perturbation_key="cond",
        control_group=CONTROL,
        dosage_key="dose",
        categorical_covariate_keys=["ct"],
        is_count_data=False,
        max_comb_len=longest,
    )
    model = cpa.CPA(
        joined,
        split_key="split",
        train_split="train",
        valid_split="valid",
        test_split="ood",
        n_latent=p["n_latent"],
        recon_loss="gauss",
        n_hidden_encoder=p["n_hidden"],
        n_layers_encoder=p["n_layers"],
        n_hidden_decoder=p["n_hidden"],
        n_layers_decoder=p["n_layers"],
        seed=seed,
    )
    model.train(
        max_epochs=int(p["epochs"]),
        use_gpu=False,
        batch_size=int(p["batch_size"]),
        early_stopping_patience=int(p["patience"]),
        check_val_every_n_epoch=max(min(int(p["check_every"]), int(p["epochs"])), 1),
        plan_kwargs={"lr": p["lr"]},
        save_path=str(folder / "model"),
        callbacks=[Listener()],
        enable_progress_bar=False,
    )
    return model, ["log1p values with Gaussian reconstruction"]


if __name__ == "__main__":
    run(_worker)
