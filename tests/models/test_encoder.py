"""Cell encoders and their pre-training: what they read, learn, refuse and leave behind."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.errors import ModelError, SplitError
from perturbfm_core.models.perturbfm.encoder.module import (
    EncoderConfig,
    SetTransformerEncoder,
    highly_variable,
    new_encoder,
)
from perturbfm_core.models.perturbfm.encoder.pretraining import (
    PretrainConfig,
    load_encoder,
    pretrain,
    save_encoder,
)
from perturbfm_core.schema import ENCODER_FILE, ENCODER_META_FILE
from perturbfm_core.splits.view import TrainView, train_view
from perturbfm_core.training.checkpoints import Checkpoint
from perturbfm_core.training.determinism import deterministic
from perturbfm_core.training.loop import LoopConfig
from tests.support.factories import screen, simulated, split_one, view_of

KINDS = pytest.mark.parametrize("kind", ["mlp", "set-transformer"])
SMALL = {"dim": 8, "hidden_dim": 16, "n_latents": 4, "n_heads": 2, "n_layers": 2}
G = 12


def encoder(kind: str, genes: int = G, seed: int = 0, **options):
    config = EncoderConfig(**{"kind": kind, **SMALL, **options})
    with deterministic(seed):
        return new_encoder(config, np.arange(genes), np.full(genes, 0.5), np.full(genes, 2.0)).eval()


def cells(n: int = 5, genes: int = G, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, genes), dtype=np.float32))


# ---- networks ------------------------------------------------------------------------------------------------


@KINDS
def test_each_cell_has_a_state_of_its_own(kind):
    net, x = encoder(kind), cells()
    state = net(x)
    assert state.shape == (5, 8)
    torch.testing.assert_close(net(x[2:3])[0], state[2])
    spread = (state - state.mean(dim=0)).detach().norm() / state.detach().norm()
    assert float(spread) > 1e-2


@KINDS
def test_every_gene_and_every_weight_matters(kind):
    net, x = encoder(kind, dropout=0.0), cells().requires_grad_()
    net(x).square().sum().backward()
    assert (x.grad.abs().sum(dim=0) > 0).all()
    unused = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert unused == ([] if kind == "mlp" else ["hidden_value"])


def test_standardising_picks_centres_and_scales():
    config = EncoderConfig(**SMALL)
    net = new_encoder(config, np.asarray([3, 1]), np.asarray([1.0, 2.0]), np.asarray([2.0, 4.0]))
    z = net.standardise(torch.tensor([[9.0, 4.0, 9.0, 5.0]]))
    assert z.tolist() == [[2.0, 0.5]]
    assert net.zero.tolist() == [-0.5, -0.5]


@KINDS
def test_genes_that_are_not_read_do_not_matter(kind):
    config = EncoderConfig(kind=kind, **SMALL)
    net = new_encoder(config, np.asarray([0, 2]), np.zeros(2), np.ones(2)).eval()
    x, y = cells(), cells(seed=1)
    y[:, [0, 2]] = x[:, [0, 2]]
    torch.testing.assert_close(net(x), net(y))


@KINDS
def test_the_value_of_a_masked_gene_is_hidden(kind):
    net, z = encoder(kind), cells()
    masked = torch.zeros(5, G, dtype=torch.bool)
    masked[:, 3] = True
    other = z.clone()
    other[:, 3] += 7.0
    torch.testing.assert_close(net.encode(z, masked), net.encode(other, masked))
    assert not torch.allclose(net.encode(z), net.encode(other))
    assert not torch.allclose(net.encode(z), net.encode(z, masked))


def test_the_order_of_gene_tokens_does_not_matter():
    net, z = encoder("set-transformer"), cells()
    order = torch.randperm(G, generator=torch.Generator().manual_seed(0))
    moved = encoder("set-transformer")
    moved.load_state_dict(net.state_dict())
    with torch.no_grad():
        moved.genes.copy_(net.genes[order])
    torch.testing.assert_close(moved.encode(z[:, order]), net.encode(z), rtol=1e-4, atol=1e-5)
    # Which gene has which value matters all the same.
    assert not torch.allclose(net.encode(z[:, order]), net.encode(z), atol=1e-3)


def test_the_cost_of_a_set_transformer_is_linear_in_genes():
    def flops(genes: int) -> int:
        with FlopCounterMode(display=False) as counter:
            encoder("set-transformer", genes).encode(cells(2, genes))
        return counter.get_total_flops()

    fixed = 2 * flops(100) - flops(200)
    assert flops(800) - fixed == pytest.approx(8 * (flops(100) - fixed), rel=1e-6)


@KINDS
def test_embedding_trains_nothing_and_keeps_the_mode(kind):
    net, x = encoder(kind, dropout=0.5), cells()
    net.train()
    first = net.embed(x.numpy(), batch_size=2)
    assert net.training
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, net.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert net.embed(x.numpy()[:0]).shape == (0, 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"kind": "cnn"}, "kind"), ({"dim": 0}, "dim"), ({"dropout": 1.0}, "dropout"), ({"hvg_count": 0}, "hvg_count"),
     ({"kind": "set-transformer", "dim": 10, "n_heads": 4}, "dim 10 is not a multiple of n_heads 4")],
)  # fmt: skip
def test_forms_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        EncoderConfig(**wrong)


# ---- genes ---------------------------------------------------------------------------------------------------


def test_variable_genes_stand_out_of_those_of_like_mean():
    mean = np.linspace(0.1, 5.0, 100)
    var = mean.copy()
    var[[20, 70]] *= 4.0  # gene 20 has less variance than every gene above 81, but much for its mean
    assert highly_variable(mean, var, 2).tolist() == [20, 70]
    order = np.random.default_rng(0).permutation(100)
    assert sorted(order[highly_variable(mean[order], var[order], 2)]) == [20, 70]


def test_constant_genes_come_last_and_all_genes_are_all():
    mean, var = np.zeros(30), np.zeros(30)
    var[[4, 9]] = 1.0
    assert highly_variable(mean, var, 2).tolist() == [4, 9]
    assert highly_variable(mean, np.zeros(30), 3).tolist() == [0, 1, 2]
    for count in (None, 30, 99):
        assert highly_variable(mean, var, count).tolist() == list(range(30))


# ---- pre-training --------------------------------------------------------------------------------------------


def config(kind: str = "mlp", objective: str = "both", hvg: int | None = None, loop=None, **options):
    return PretrainConfig(
        encoder=EncoderConfig(kind=kind, hvg_count=hvg, **SMALL),
        objective=objective,
        loop=LoopConfig(**{"epochs": 2, "batch_size": 64, "patience": 9, **(loop or {})}),
        device="cpu",
        **options,
    )


@lru_cache(maxsize=1)
def world() -> tuple[PerturbDataset, str, TrainView]:
    """Return cells whose genes move together in three programmes, one context unseen."""
    rng = np.random.default_rng(0)
    perts, contexts = ["A", "B", "C", "D", "E"], ["x", "y", "z"]
    rows = [(p, c) for c in contexts for p in ["control", *perts] for _ in range(30)]
    loadings = rng.normal(size=(3, 20))
    X = np.maximum(
        2.0 + rng.normal(size=(len(rows), 3)) @ loadings + 0.3 * rng.normal(size=(len(rows), 20)), 0
    )
    X[:, 19] = 0.0
    ds = screen(rows, X=X, genes=20)
    split = split_one(ds, "context_ood", {"holdout": ["z"]})
    return ds, split.hash, train_view(ds, split)


@lru_cache(maxsize=8)
def pretrained(kind="mlp", objective="both", seed=0, hvg=None):
    _, split, view = world()
    return pretrain(view, config(kind, objective, hvg), seed, split_hash=split)


@pytest.mark.parametrize(
    ("kind", "objective", "epochs"),
    [("mlp", "denoise", 60), ("mlp", "mask", 60), ("mlp", "both", 60), ("set-transformer", "both", 40)],
)
def test_pre_training_learns_what_genes_have_in_common(kind, objective, epochs):
    _, _, view = world()
    loop = {"epochs": epochs, "lr": 1e-2, "ema_decay": 0.9, "patience": epochs}
    recorded = pretrain(view, config(kind, objective, loop=loop), 0).training
    # Most of the variance is in three programmes, which the noise-free part of a cell tells.
    assert recorded["best_score"] > 0.4
    parts = {"denoise", "mask"} if objective == "both" else {objective}
    assert set(recorded["curves"]) == {"loss", "lr", "validation", *parts}


def test_nothing_is_learned_from_independent_genes():
    """A score above zero on independent genes would mean that the hidden values leak."""
    X = np.random.default_rng(0).random((200, 15))
    ds = screen(
        [(p, c) for c in ("x", "y") for p in ("control", "A", "B", "C", "D") for _ in range(20)],
        X=X,
        genes=15,
    )
    view = train_view(ds, split_one(ds, "context_ood", {"holdout": ["y"]}))
    recorded = pretrain(view, config(objective="mask", loop={"epochs": 30, "lr": 5e-3}), 0).training
    assert recorded["best_score"] < 0.05


def test_only_train_rows_and_input_controls_are_read(monkeypatch):
    ds, _, _ = world()
    split = split_one(ds, "explicit", {"folds": {"test": ["A"], "val": ["B"]}}, validation="fold")
    view = train_view(ds, split)
    read: set[int] = set()
    plain = TrainView.expression

    def spy(self, rows):
        read.update(np.asarray(rows).tolist())
        return plain(self, rows)

    monkeypatch.setattr(TrainView, "expression", spy)
    pretrain(view, config(), 0)
    train_rows = set(split.rows(ds, "train").tolist())
    controls = set(np.flatnonzero(ds.controls.has_role("input")).tolist())
    assert len(split.rows(ds, "val"))
    assert read == train_rows | controls


@pytest.mark.parametrize("kind", ["context_ood", "iid"])
def test_rows_outside_train_change_nothing(kind):
    ds, _, _ = world()
    split = split_one(ds, kind, {"holdout": ["z"]} if kind == "context_ood" else None)
    view = train_view(ds, split)
    assert view.fit_rows is not None
    X = np.array(ds.values.expression)
    X[~view.fit_rows] = np.random.default_rng(1).random((int((~view.fit_rows).sum()), 20))
    other = PerturbDataset(ds.obs, ds.genes, Values(expression=X), ds.metadata)
    changed = TrainView(**{**vars(view), "dataset": other})
    a, b = (pretrain(v, config(hvg=6), 0) for v in (view, changed))
    for name, value in a.encoder.state_dict().items():
        assert torch.equal(value, b.encoder.state_dict()[name]), name


def test_a_row_that_is_not_open_is_refused():
    ds, _, view = world()
    closed = TrainView(**{**vars(view), "allowed_rows": np.zeros(ds.n_obs, dtype=np.bool_)})
    with pytest.raises(SplitError, match="a model must not read them"):
        pretrain(closed, config(), 0)


def test_scales_and_genes_are_those_of_the_cells_it_trains_on():
    ds, _, view = world()
    made = pretrained(hvg=6)
    held_out = made.training["validation_cells"]
    # 10 train conditions of 30 cells and 2 x 30 shared controls, one condition held out.
    assert (made.training["cells"], held_out) == (330, 30)
    columns = made.encoder.columns.numpy()
    assert len(columns) == made.training["genes_read"] == 6
    assert 19 not in columns
    X = ds.values.expression[view.fit_rows]
    np.testing.assert_allclose(made.encoder.center.numpy(), X.mean(axis=0)[columns], rtol=0.1)
    np.testing.assert_allclose(made.encoder.scale.numpy(), X.std(axis=0)[columns], rtol=0.1)


def test_a_gene_that_never_varies_does_no_harm():
    made = pretrained()
    assert np.isfinite(made.training["curves"]["loss"]).all()
    assert (made.encoder.scale > 0).all()


def test_cells_are_drawn_down_to_a_number():
    _, _, view = world()
    recorded = pretrain(view, config(max_cells=100), 0).training
    assert recorded["cells"] == recorded["rows"] == 100


def test_sparse_cells_are_never_made_dense_as_a_whole(monkeypatch):
    ds, _, view = world()
    sparse = PerturbDataset(
        ds.obs, ds.genes, Values(expression=sp.csr_array(ds.values.expression)), ds.metadata
    )
    most = []
    plain = sp.csr_array.toarray
    monkeypatch.setattr(
        sp.csr_array, "toarray", lambda self, *a, **k: most.append(self.shape[0]) or plain(self, *a, **k)
    )
    monkeypatch.setattr("perturbfm_core.models.perturbfm.encoder.pretraining._BLOCK", 50)
    same = pretrain(TrainView(**{**vars(view), "dataset": sparse}), config(), 0, split_hash="s")
    assert max(most) <= 64
    for name, value in pretrained().encoder.state_dict().items():
        torch.testing.assert_close(value, same.encoder.state_dict()[name], rtol=1e-3, atol=1e-4)


@KINDS
def test_the_same_seed_gives_the_same_bytes(kind, tmp_path):
    _, split, view = world()
    folders = []
    for i, seed in enumerate((0, 0, 1)):
        folders.append(tmp_path / str(i))
        folders[-1].mkdir()
        save_encoder(pretrain(view, config(kind), seed, split_hash=split), folders[-1])
    files = [[(f / n).read_bytes() for n in (ENCODER_FILE, ENCODER_META_FILE)] for f in folders]
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]


def test_an_interrupted_pre_training_ends_the_same(tmp_path):
    _, _, view = world()
    whole = pretrain(view, config(loop={"epochs": 4}), 0)

    def stop(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain(
                view,
                config(loop={"epochs": 4}),
                0,
                on_epoch=stop,
                checkpoint=Checkpoint(tmp_path, every_epochs=1),
            )
    again = pretrain(view, config(loop={"epochs": 4}), 0, checkpoint=Checkpoint(tmp_path))
    for name, value in whole.encoder.state_dict().items():
        assert torch.equal(value, again.encoder.state_dict()[name]), name
    assert again.training == whole.training


def test_one_train_condition_is_enough():
    ds = screen([(p, "x") for p in ("control", "A", "B") for _ in range(6)])
    view = train_view(ds, split_one(ds, "explicit", {"folds": {"test": ["B"]}}))
    recorded = pretrain(view, config(), 0).training
    assert (recorded["validation_cells"], recorded["best_score"]) == (0, None)


def test_differences_have_nothing_to_pre_train_on():
    rng = np.random.default_rng(1)
    rows = [(p, c) for c in ("x", "y") for p in ("A", "B", "C")]
    ds = screen(rows, X=rng.normal(size=(6, 5)), genes=5, space="delta", level="condition")
    view = train_view(ds, split_one(ds, "context_ood", {"holdout": ["y"]}))
    with pytest.raises(ModelError, match="'screen' holds differences only; pre-training needs expression"):
        pretrain(view, config(), 0)
    with pytest.raises(ModelError, match="needs the cells of a split; this view has conditions only"):
        pretrain(view_of([("x", "A")], rng.normal(size=(1, 4))), config(), 0)


def test_counts_are_read_as_log1p():
    ds = simulated(n_obs=240, n_genes=15, n_contexts=2, n_perts=4)
    view = train_view(ds, split_one(ds, "context_ood", {"holdout": ["C1"]}))
    made = pretrain(view, config(), 0)
    np.testing.assert_allclose(
        made.encoder.center.numpy(),
        view.expression(np.flatnonzero(view.fit_rows)).mean(axis=0),
        rtol=0.2,
        atol=0.05,
    )


# ---- the artifact --------------------------------------------------------------------------------------------


@KINDS
def test_a_saved_encoder_gives_the_same_states(kind, tmp_path):
    ds, split, view = world()
    made = pretrained(kind, hvg=7)
    save_encoder(made, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [ENCODER_META_FILE, ENCODER_FILE]
    state = torch.get_rng_state()
    back = load_encoder(tmp_path, split_hash=split, genes=view.genes)
    assert torch.equal(torch.get_rng_state(), state)
    x = np.asarray(ds.values.expression[:10], dtype=np.float32)
    np.testing.assert_array_equal(back.encoder.embed(x), made.encoder.embed(x))
    assert (back.config, back.seed, back.split_hash, back.training) == (made.config, 0, split, made.training)
    assert isinstance(back.encoder, SetTransformerEncoder) == (kind == "set-transformer")
    recorded = json.loads((tmp_path / ENCODER_META_FILE).read_text())
    assert recorded["split_hash"] == split
    assert recorded["objective"] == "both"
    assert len(recorded["genes_sha256"]) == 64
    assert set(load_file(tmp_path / ENCODER_FILE)) == set(made.encoder.state_dict())


def test_another_split_is_refused(tmp_path):
    save_encoder(pretrained(), tmp_path)
    _, split, view = world()
    with pytest.raises(
        ModelError,
        match=rf"train rows of split {split[:12]} and must not be used with split {'f' * 12}; pre-train one with "
        rf"`perturbfm pretrain --split {'f' * 12}`",
    ):
        load_encoder(tmp_path, split_hash="f" * 64, genes=view.genes)


def test_other_genes_are_refused(tmp_path):
    save_encoder(pretrained(), tmp_path)
    _, split, view = world()
    for genes in (view.genes[::-1].copy(), view.genes[:-1]):
        with pytest.raises(ModelError, match=f"reads 20 genes that are not the {len(genes)} of this data"):
            load_encoder(tmp_path, split_hash=split, genes=genes)


def test_an_encoder_of_no_split_is_not_saved(tmp_path):
    _, _, view = world()
    with pytest.raises(ModelError, match="is saved with the split whose train rows it saw"):
        save_encoder(pretrain(view, config(loop={"epochs": 1}), 0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def _edit(path: Path, key: str, value: object) -> None:
    recorded = json.loads(path.read_text())
    recorded[key] = value
    path.write_text(json.dumps(recorded))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda f: (f / ENCODER_FILE).unlink(), "is missing or damaged .*pre-train it again", id="no weights"),
        pytest.param(lambda f: (f / ENCODER_FILE).write_bytes(b"\x80\x04}."), "is missing or damaged", id="a pickle"),
        pytest.param(lambda f: (f / ENCODER_META_FILE).unlink(), "encoder.json does not exist", id="no description"),
        pytest.param(lambda f: (f / ENCODER_META_FILE).write_text("[]"), "does not describe an encoder", id="a list"),
        pytest.param(lambda f: _edit(f / ENCODER_META_FILE, "config", {"x": 1}), "does not describe an encoder .*x: ", id="another config"),
        pytest.param(lambda f: _edit(f / ENCODER_META_FILE, "config", {}), "weights are not those of a mlp encoder", id="other sizes"),
    ],
)  # fmt: skip
def test_a_damaged_encoder_is_refused(tmp_path, change, message):
    _, split, view = world()
    save_encoder(pretrained(), tmp_path)
    change(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_encoder(tmp_path, split_hash=split, genes=view.genes)
