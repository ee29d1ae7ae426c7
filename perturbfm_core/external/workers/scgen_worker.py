"""Worker of scGen: perturbations that were seen in another context, carried over in the latent space."""

from __future__ import annotations

import sys
import types
import typing
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import anndata
import numpy as np
from common import (
    CONTROL,
    Held,
    Labels,
    Output,
    WorkerError,
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
    """Fit one model on all contexts and predict the conditions from their control cells."""
    p = options(
        request,
        epochs=100,
        n_hidden=800,
        n_latent=100,
        n_layers=2,
        dropout_rate=0.2,
        batch_size=32,
        lr=1e-3,
        early_stopping=True,
        patience=25,
        max_cells=0,
    )
    warnings.filterwarnings("ignore")
    scgen = _imported()
    table = anndata.read_h5ad(str(view / "view.h5ad"))
    controls = anndata.read_h5ad(str(view / "query_controls.h5ad"))
    labels, output = Labels(request), Output(out, request["genes"])
    # Validation conditions stay unseen: what is fitted on them later must not have been learnt.
    held = Held(request, table.obs, lambda pert, context: {"+".join(labels.parts(pert))})
    table = table[np.flatnonzero(~held.rows)]
    with work_folder(out):
        set_seed(request["seed"])
        perts, is_control = (
            table.obs["pert_id"].astype(str).to_numpy(),
            table.obs["is_control"].to_numpy(bool),
        )
        contexts = table.obs["context_id"].astype(str).to_numpy()
        name = {
            q: "+".join(labels.parts(q))
            for q in {*perts[~is_control], *(c["pert_id"] for c in request["conditions"])}
        }
        conditions = [CONTROL if c else name[q] for q, c in zip(perts, is_control)]
        if CONTROL not in conditions or len(set(conditions)) < 2:
            msg = "scGen needs controls and at least one perturbation to train on"
            raise WorkerError(msg)
        a = _cells(table.X, conditions, contexts, table.var_names)
        model = _fitted(scgen, a, p)
        _predict(model, controls, request, (name, held), contexts[0], p["max_cells"], output)
    output.notes.append("early stopping on a tenth of the train cells")
    output.write(level="cell", packages=("scgen", "scvi-tools", "torch", "anndata"))


def _cells(X, conditions, contexts, genes):
    """Return cells as scGen has them."""
    a = anndata.AnnData(X=dense(X))
    a.obs["condition"], a.obs["cell_type"] = list(conditions), list(contexts)
    a.obs_names, a.var_names = [f"c{i}" for i in range(a.n_obs)], list(genes)
    return a


def _fitted(scgen, a, p):
    """Return the trained model."""
    from pytorch_lightning.callbacks import Callback

    class Listener(Callback):
        def on_train_epoch_end(self, trainer, module):
            loss = trainer.callback_metrics.get("train_loss_epoch")
            progress(trainer.current_epoch + 1, p["epochs"], None if loss is None else float(loss))

    scgen.SCGEN.setup_anndata(a, batch_key="condition", labels_key="cell_type")
    model = scgen.SCGEN(a, **{k: p[k] for k in ("n_hidden", "n_latent", "n_layers", "dropout_rate")})
    model.train(
        max_epochs=int(p["epochs"]),
        batch_size=int(p["batch_size"]),
        early_stopping=bool(p["early_stopping"]) and a.n_obs >= 20,
        early_stopping_patience=int(p["patience"]),
        plan_kwargs={"lr": p["lr"]},
        use_gpu=False,
        callbacks=[Listener()],
        enable_progress_bar=False,
    )
    return model


def _predict(model, controls, request, names, known_context, max_cells, output):
    """Add the predictions of all conditions, context by context."""
    name, held = names
    where = controls.obs["context_id"].astype(str).to_numpy()
    for context in sorted({c["context_id"] for c in request["conditions"]}):
        asked = [c for c in request["conditions"] if c["context_id"] == context]
        rows = drawn(np.flatnonzero(where == context), max_cells, request["seed"])
        if not len(rows):
            output.skipped += [skipped(c, "there are no control cells of the context") for c in asked]
            continue
        # A label of the model's own: an unseen one is refused, though the network reads none.
        a = _cells(controls[rows].X, [CONTROL] * len(rows), [known_context] * len(rows), controls.var_names)
        own = model.get_decoded_expression(a).mean(axis=0)
        for condition in asked:
            known = name[condition["pert_id"]] in held.seen
            why = held.why(condition) if known else "the perturbation is not seen in training"
            if why is not None:
                output.skipped.append(skipped(condition, why))
                continue
            # scGen draws equal numbers of cells: the same for a condition whatever else is asked.
            set_seed(request["seed"])
            cells_, _ = model.predict(
                ctrl_key=CONTROL, stim_key=name[condition["pert_id"]], adata_to_predict=a
            )
            output.add(condition["key"], np.asarray(cells_.X).mean(axis=0), control=own, n_cells=len(rows))


def _imported():
    """Return the package scgen, with what it uses of an older scvi-tools put in place."""
    import scvi
    import scvi.module.base as base

    if "scvi._compat" not in sys.modules:
        compat = types.ModuleType("scvi._compat")
        compat.Literal = typing.Literal
        sys.modules["scvi._compat"] = compat
    if not hasattr(base, "LossRecorder"):
        base.LossRecorder = lambda loss, reconstruction, kl, kl_global=None: base.LossOutput(
            loss=loss, reconstruction_loss=reconstruction, kl_local=kl
        )
    import scgen

    scvi.settings.verbosity = 30
    return scgen


if __name__ == "__main__":
    run(_worker)
