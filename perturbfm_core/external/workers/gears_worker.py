"""Worker of GEARS (cell-gears): single genes and pairs inside its gene graph, one model per context.

Its gene-ontology graph is made of a table that the request gives (parameter ``go_table``: {gene: [terms]}, or the name
of such a JSON file in the view), else of each gene's most correlated genes on the controls.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from common import CONTROL, Labels, Output, dense, options, progress, run, set_seed, skipped, work_folder

NEIGHBOURS = 15
# Edges of the graph share more than this part of their terms; as in GEARS.
OVERLAP = 0.1
# GEARS predicts from so many controls, drawn with numpy's seed.
N_CONTROLS = 300


def _worker(view, out, request):
    """Fit one model per context and predict its conditions."""
    p = options(
        request,
        epochs=20,
        lr=1e-3,
        weight_decay=5e-4,
        batch_size=32,
        hidden_size=64,
        num_go_gnn_layers=1,
        num_gene_gnn_layers=1,
        decoder_hidden_size=16,
        num_similar_genes_go_graph=20,
        num_similar_genes_co_express_graph=20,
        coexpress_threshold=0.4,
        direction_lambda=0.1,
        go_table=None,
    )
    import torch  # noqa: F401 - loaded before the seed is set

    _take_series_as_index()
    table = anndata.read_h5ad(str(view / "view.h5ad"))
    terms = _ontology(p.pop("go_table"), view)
    output = Output(out, request["genes"])
    contexts = sorted({c["context_id"] for c in request["conditions"]})
    for i, context in enumerate(contexts):
        conditions = [c for c in request["conditions"] if c["context_id"] == context]
        rows = np.flatnonzero((table.obs["context_id"].astype(str) == context).to_numpy())
        progress(i + 1, len(contexts), what=f"context {context},")
        with work_folder(out) as folder:
            _one_context(folder, table[rows], conditions, terms, dict(p), request, output)
    output.write(level="mean", packages=("cell-gears", "torch", "torch-geometric", "scanpy", "anndata"))


def _ontology(given, view):
    """Return {gene: terms} of the parameter ``go_table``, None without it."""
    if given is None:
        return None
    found = given if isinstance(given, dict) else json.loads((view / given).read_text(encoding="utf-8"))
    return {str(gene): set(map(str, terms)) for gene, terms in found.items() if terms}


def _one_context(folder, table, conditions, terms, p, request, output):
    """Fit the model of one context and add its predictions."""
    context = conditions[0]["context_id"]
    labels = Labels(request)
    is_control = table.obs["is_control"].to_numpy(bool)
    if is_control.sum() < 2:
        output.skipped += [skipped(c, "the context has no controls to train on") for c in conditions]
        return
    perts = table.obs["pert_id"].astype(str).to_numpy()
    in_graph = _graph_genes(request, terms, set(perts[~is_control]), labels)
    parts = {q: labels.parts(q) for q in {*perts[~is_control], *(c["pert_id"] for c in conditions)}}
    fits = {q for q, names in parts.items() if len(names) <= 2 and set(names) <= in_graph}
    label = {q: "+".join([*parts[q], CONTROL][:2]) for q in fits}
    counts = pd.Series(perts[~is_control]).value_counts()
    # A test of differential expression needs two cells.
    trained = [q for q in counts.index if q in fits and counts[q] > 1]
    if len(trained) < len(counts):
        output.notes.append(
            f"{context}: {len(counts) - len(trained)} of {len(counts)} perturbations are not trained on "
            "(outside the graph, or of one cell)"
        )
    if not trained:
        output.skipped += [skipped(c, "the context has no perturbation to train on") for c in conditions]
        return
    keep = np.flatnonzero(is_control | np.isin(perts, trained))
    validated = _validation(
        table.obs["fold"].astype(str).to_numpy()[keep], perts[keep], is_control[keep], trained, request
    )
    set_seed(request["seed"])
    data = _prepared(folder, table[keep], perts[keep], is_control[keep], label, labels, in_graph, terms)
    train = [q for q in trained if q not in validated or len(trained) == 1]
    data.split, data.seed, data.subgroup, data.train_gene_set_size = "no_test", 1, None, "none"
    data.set2conditions = {
        "train": [CONTROL, *(label[q] for q in train)],
        "val": [label[q] for q in validated],
    }
    n_train = int(is_control[keep].sum() + np.isin(perts[keep], train).sum())
    data.get_dataloader(batch_size=min(p["batch_size"], n_train), test_batch_size=128)
    model = _fitted(data, p, request["seed"])
    own, order = _model_controls(data, request["seed"]), _gene_order(data, labels, request["genes"])
    for condition in conditions:
        q = condition["pert_id"]
        if len(parts[q]) > 2:
            output.skipped.append(skipped(condition, "GEARS takes one gene or two"))
        elif q not in fits:
            lost = [g for g in condition.get("genes") or [q] if labels.part(g) not in in_graph]
            output.skipped.append(skipped(condition, "{} is not in the gene graph".format(", ".join(lost))))
        elif condition.get("role") == "validation" and q in train:
            output.skipped.append(skipped(condition, "trained on, as there is too little to validate on"))
        else:
            # The same controls are drawn for every condition.
            np.random.seed(request["seed"])
            predicted = model.predict([parts[q]])["_".join(parts[q])]
            output.add(condition["key"], np.asarray(predicted)[order], control=own[order])


def _graph_genes(request, terms, trained, labels):
    """Return the labels of the genes of the graph: with terms, or measured, or perturbed in training."""
    if terms is not None:
        return {labels.part(g) for g in terms}
    perturbed = {part for q in trained for part in labels.parts(q)}
    return {labels.part(g) for g in request["genes"]} | perturbed


def _validation(folds, perts, is_control, trained, request):
    """Return the perturbations whose error chooses the best epoch: those of the split, else a tenth of all."""
    held = sorted(set(perts[(folds == "val") & ~is_control]) & set(trained))
    if held and len(held) < len(trained):
        return held
    drawn = np.random.default_rng(request["seed"]).permutation(sorted(trained))
    return sorted(drawn[: max(len(trained) // 10, 1)])


def _prepared(folder, table, perts, is_control, label, labels, in_graph, terms):
    """Return the data as GEARS has them, with every file in place that it would download or make."""
    from gears import PertData

    genes = [labels.part(str(g)) for g in table.var_names]
    conditions = [CONTROL if c else label[q] for q, c in zip(perts, is_control)]
    X = sp.csr_matrix(table.X).astype(np.float32)
    graph = sorted(in_graph)
    # PertData reads these two, and would fetch the first.
    with (folder / "gene2go_all.pkl").open("wb") as handle:
        pickle.dump({g: {g} for g in graph}, handle)
    with (folder / "genes.pkl").open("wb") as handle:
        pickle.dump(graph, handle)
    (folder / "data").mkdir()
    edges = (
        _term_edges(graph, terms, labels)
        if terms is not None
        else _correlated_edges(X[np.flatnonzero(is_control)], genes, graph)
    )
    edges.to_csv(str(folder / "data" / "go_essential_view.csv"), index=False)
    a = anndata.AnnData(
        X=X,
        obs=pd.DataFrame(
            {"condition": conditions, "cell_type": "cell"}, index=[f"c{i}" for i in range(len(conditions))]
        ),
        var=pd.DataFrame({"gene_name": genes}, index=genes),
    )
    a.uns["log1p"] = {"base": None}
    data = PertData(str(folder), gene_set_path=str(folder / "genes.pkl"), default_pert_graph=False)
    data.new_data_process("view", adata=a)
    return data


def _term_edges(graph, terms, labels):
    """Return the edges between genes by the part of their terms that they share."""
    by_label = {labels.part(g): t for g, t in terms.items()}
    numbers = {t: i for i, t in enumerate(sorted(set().union(*by_label.values())))}
    pairs = [(i, numbers[t]) for i, g in enumerate(graph) for t in by_label[g]]
    rows, columns = np.array(pairs).T
    return _overlap_edges(
        sp.csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(graph), len(numbers))), graph
    )


def _correlated_edges(C, genes, graph):
    """Return the edges between genes whose most correlated genes on the controls are partly the same."""
    with np.errstate(invalid="ignore", divide="ignore"):
        R = np.nan_to_num(np.corrcoef(dense(C).T))
    np.fill_diagonal(R, 1.0)
    place = {g: i for i, g in enumerate(graph)}
    best = np.argsort(-R, axis=1, kind="stable")[:, :NEIGHBOURS]
    rows = np.repeat([place[g] for g in genes], best.shape[1])
    # A perturbed gene that is not measured has only itself.
    alone = [place[g] for g in graph if g not in set(genes)]
    columns = np.concatenate([best.ravel(), len(genes) + np.arange(len(alone))])
    rows = np.concatenate([rows, np.asarray(alone, dtype=int)])
    members = sp.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(len(graph), len(genes) + len(alone))
    )
    return _overlap_edges(members, graph)


def _overlap_edges(members, graph):
    """Return the edges of genes whose sets overlap: intersection over union above `OVERLAP`."""
    both = (members @ members.T).tocoo()
    sizes = np.asarray(members.sum(axis=1)).ravel()
    share = both.data / (sizes[both.row] + sizes[both.col] - both.data)
    names, kept = np.asarray(graph), share > OVERLAP
    return pd.DataFrame(
        {"source": names[both.row[kept]], "target": names[both.col[kept]], "importance": share[kept]}
    )


def _fitted(data, p, seed):
    """Return the trained model."""
    import gears.gears
    from gears import GEARS

    set_seed(seed)
    epochs = int(p["epochs"])
    written = gears.gears.print_sys

    def listen(text):
        written(text)
        words = str(text).split()
        if words[:1] == ["Epoch"] and words[1].endswith(":"):
            progress(int(words[1][:-1]), epochs, float(words[5]))

    gears.gears.print_sys = listen
    try:
        model = GEARS(data, device="cpu")
        sizes = ("epochs", "lr", "weight_decay", "batch_size")
        model.model_initialize(**{k: v for k, v in p.items() if k not in sizes})
        model.train(epochs=epochs, lr=p["lr"], weight_decay=p["weight_decay"])
    finally:
        gears.gears.print_sys = written
    return model


def _model_controls(data, seed):
    """Return the mean of the controls that the model predicts from."""
    controls = data.adata[data.adata.obs["condition"] == CONTROL].X
    drawn = np.random.RandomState(seed).randint(0, controls.shape[0], N_CONTROLS)
    return dense(controls[drawn]).mean(axis=0)


def _gene_order(data, labels, genes):
    """Return where the genes of the request are in GEARS' order."""
    place = {g: i for i, g in enumerate(data.adata.var["gene_name"])}
    return [place[labels.part(g)] for g in genes]


def _take_series_as_index():
    """Let sparse matrices be indexed by a boolean column, which GEARS does and scipy has stopped to allow."""
    from scipy.sparse import _index

    plain = _index.IndexMixin.__getitem__
    _index.IndexMixin.__getitem__ = lambda self, key: plain(
        self, key.to_numpy() if hasattr(key, "to_numpy") else key
    )


if __name__ == "__main__":
    run(_worker)
