"""Encoders as objects of the store, what models are told of them, and trainings that are interrupted."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from perturbfm_core import schema
from perturbfm_core.catalog.entries import ModelEntry, SplitSpec
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import ModelError
from perturbfm_core.graphs.side_info import Needs, SideInfo
from perturbfm_core.models.base import MODELS, load_model
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.perturbfm.encoder.pretraining import PretrainConfig, load_encoder
from perturbfm_core.pipeline import pretrained_encoder as encoders
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.gene_graph import gather
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.pipeline.pretrained_encoder import pretrain
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.trained_model import made_of
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.code import Code
from perturbfm_core.training.checkpoints import CHECKPOINT_FILE, checkpoint_at
from perturbfm_core.training.determinism import deterministic
from perturbfm_core.training.loop import LoopConfig, train
from tests.support.stages import fit

SIZE = {"n_obs": 300, "n_genes": 30, "n_contexts": 3, "n_perts": 6}
CONFIG = PretrainConfig.model_validate(
    {"encoder": {"dim": 4, "hidden_dim": 8}, "loop": {"epochs": 2, "batch_size": 64}, "device": "cpu"}
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a store with one data set and two splits, once."""
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    import_dataset(store, simulate(SimulationConfig(name="small", **SIZE))[0], storage="npz")
    ds = open_dataset(store.dataset("small"))
    hashes = []
    for held in ("C1", "C2"):
        spec = SplitSpec(kind="context_ood", params={"holdout": [held]})
        ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
        hashes.append(split.hash)
    return path, hashes


@pytest.fixture
def store(template, own_home) -> ArtifactStore:
    """Return a private copy of that store, where the environment says it is."""
    shutil.copytree(template[0], own_home)
    shutil.copytree(own_home / "splits", own_home.parent / "splits")
    return ArtifactStore()


@pytest.fixture
def splits(template, store):
    return [SplitFolder(store.split_dir).load(h) for h in template[1]]


@pytest.fixture
def ds(store):
    return open_dataset(store.dataset("small"))


class Listener:
    """A progress display that remembers."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.texts, self.reports = stop_at, [], []

    def __call__(self, text: str) -> None:
        self.texts.append(text)

    def epoch(self, report) -> None:
        self.reports.append(report)
        if len(self.reports) == self.stop_at:
            raise KeyboardInterrupt


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


# ---- pre-training --------------------------------------------------------------------------------------------


def test_the_same_inputs_have_one_encoder(store, ds, splits):
    first = pretrain(store, ds, splits[0], CONFIG)
    again = pretrain(store, ds, splits[0], CONFIG)
    assert (first.reused, again.reused) == (False, True)
    assert first.path == again.path == store.object(first.key)
    assert {p.name for p in first.path.iterdir()} == {"encoder.safetensors", "encoder.json", "pretrain.json"}
    others = [
        pretrain(store, ds, splits[1], CONFIG),
        pretrain(store, ds, splits[0], CONFIG, seed=1),
        pretrain(store, ds, splits[0], CONFIG.model_copy(update={"objective": "mask"})),
    ]
    assert len({first.key, *(o.key for o in others)}) == 4
    weights = {o.path.joinpath(schema.ENCODER_FILE).read_bytes() for o in (first, *others)}
    assert len(weights) == 4


def test_code_decides_an_encoder(store, ds, splits, monkeypatch):
    first = pretrain(store, ds, splits[0], CONFIG)
    monkeypatch.setattr(encoders, "code_of", lambda *_: Code({"m": "new"}, {}))
    assert pretrain(store, ds, splits[0], CONFIG).key != first.key


def test_an_interrupted_pre_training_goes_on(store, ds, splits, monkeypatch):
    # Every epoch is written, so that the second call begins after the first epoch.
    monkeypatch.setattr("perturbfm_core.training.checkpoints.Checkpoint.due", lambda self, epoch: True)
    listener = Listener(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(store, ds, splits[0], CONFIG, tell=listener)
    assert [p.name for p in (store.runs / ".checkpoints").glob("*/*")] == [CHECKPOINT_FILE]
    rest = Listener()
    resumed = pretrain(store, ds, splits[0], CONFIG, tell=rest)
    assert [r.epoch for r in rest.reports] == [2]
    assert not list((store.runs / ".checkpoints").glob("*"))
    kept = files(resumed.path)
    shutil.rmtree(resumed.path)
    whole = files(pretrain(store, ds, splits[0], CONFIG).path)
    for name in (schema.ENCODER_FILE, schema.ENCODER_META_FILE):
        assert kept[name] == whole[name]


def test_the_default_encoder_of_a_kind_is_made_once(store, ds, splits, monkeypatch):
    asked = []

    def small(kind="mlp"):
        asked.append(kind)
        return CONFIG

    monkeypatch.setattr(encoders, "default_config", small)
    made = encoders.find_encoder(store, "mlp", ds, splits[0])
    assert encoders.find_encoder(store, "mlp", ds, splits[0]) == made
    assert made.path == pretrain(store, ds, splits[0], CONFIG).path
    assert asked == ["mlp", "mlp"]


def test_defaults_of_each_kind():
    plain, attention = encoders.default_config(), encoders.default_config("set-transformer")
    assert (plain.encoder.kind, plain.encoder.hvg_count) == ("mlp", None)
    assert (attention.encoder.kind, attention.encoder.hvg_count) == ("set-transformer", 1000)
    assert plain.loop == attention.loop


def test_differences_have_no_encoder():
    assert encoders.no_cells(SplitTraits()) is None
    reason = encoders.no_cells(SplitTraits(controls=False))
    assert reason == "needs expression of cells, the data set has differences only"


# ---- finding -------------------------------------------------------------------------------------------------


def test_an_encoder_is_found_by_folder_key_and_prefix(store, ds, splits, tmp_path):
    made = pretrain(store, ds, splits[0], CONFIG)
    copy = tmp_path / "mine"
    shutil.copytree(made.path, copy)
    found = [
        encoders.find_encoder(store, name, ds, splits[0])
        for name in (str(made.path), made.key, made.key[:7], str(copy))
    ]
    assert [f.path for f in found] == [made.path] * 3 + [copy]
    assert {(f.sha256, f.split_hash) for f in found} == {(found[0].sha256, splits[0].hash)}
    changed = json.loads((copy / schema.ENCODER_META_FILE).read_text())
    changed["config"]["encoder"]["n_heads"] = 1
    (copy / schema.ENCODER_META_FILE).write_text(json.dumps(changed))
    assert encoders.find_encoder(store, str(copy), ds, splits[0]).sha256 != found[0].sha256


@pytest.mark.parametrize("name", ["nowhere", "0" * 64, "0123456", "abc", ""])
def test_what_is_no_encoder_is_said_so(store, ds, splits, name):
    pretrain(store, ds, splits[0], CONFIG)
    with pytest.raises(ModelError, match=f"no encoder called {name!r}: give the folder or the object key"):
        encoders.find_encoder(store, name, ds, splits[0])


def test_an_encoder_of_another_split_or_other_genes_is_refused(store, ds, splits):
    made = pretrain(store, ds, splits[0], CONFIG)
    with pytest.raises(
        ModelError, match=r"was pre-trained on the train rows of split .* must not be used with"
    ):
        encoders.find_encoder(store, made.key, ds, splits[1])
    told = json.loads((made.path / schema.ENCODER_META_FILE).read_text())
    (made.path / schema.ENCODER_META_FILE).write_text(json.dumps({**told, "genes_sha256": "0"}))
    with pytest.raises(ModelError, match="reads other genes than 'small' has; pre-train one on this data"):
        encoders.find_encoder(store, made.key, ds, splits[0])
    (made.path / schema.ENCODER_FILE).unlink()
    with pytest.raises(ModelError, match="does not hold a whole encoder"):
        encoders.find_encoder(store, made.key, ds, splits[0])


# ---- in a fit ------------------------------------------------------------------------------------------------


class Network(Baseline):
    """A network of one weight per gene that learns the mean, as networks of this package are trained."""

    name = "test-network"

    class Params(Baseline.Params):
        """Parameters."""

        pretrained_encoder: str | None = None

    def needs(self) -> Needs:
        """Return the encoder."""
        return Needs(encoder=self.params.pretrained_encoder)

    def _fit(self, view, seed):
        y = torch.from_numpy(view.delta)
        with deterministic(seed):
            module = torch.nn.Linear(1, y.shape[1])
        record = train(
            module,
            lambda m, rows: {"loss": (m(torch.ones(len(rows), 1)) - y[rows]).square().mean()},
            len(y),
            LoopConfig(epochs=5, lr=0.1),
            seed=seed,
            on_epoch=self.on_epoch,
            checkpoint=checkpoint_at(self.checkpoints, "mean", every_epochs=1),
            phase="mean",
        )
        self.training["loop"] = record.to_json()
        self.net = (module.weight[:, 0] + module.bias).detach().numpy()
        if self.side_info.encoder is not None:
            path = self.side_info.encoder.path
            made = load_encoder(path, split_hash=self.side_info.encoder.split_hash, genes=view.genes)
            self.training["encoder"] = made.encoder.dim

    def _mean(self, query):
        return np.broadcast_to(self.net, (len(query), len(self.net)))

    def _state_arrays(self):
        return {"net": self.net}

    def _restore(self, arrays, meta):
        self.net = arrays["net"]


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setitem(MODELS._items, Network.name, Network)

    def config(**params):
        return model_configs(ModelEntry(name="net", description="x", model=Network.name, params=params))[0]

    return config


def test_an_interrupted_fit_goes_on_and_ends_with_the_same_bytes(store, ds, splits, network):
    listener = Listener(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        fit(store, ds, splits[0], network(), listener)
    (kept,) = (store.runs / ".checkpoints").glob("*/mean")
    assert [p.name for p in kept.iterdir()] == [CHECKPOINT_FILE]
    rest = Listener()
    resumed = fit(store, ds, splits[0], network(), rest)
    assert kept.parent.name == resumed.key
    assert [(r.phase, r.epoch) for r in rest.reports][:2] == [("mean", 4), ("mean", 5)]
    assert not list((store.runs / ".checkpoints").glob("*"))
    bytes_of = {n: (resumed.path / n).read_bytes() for n in (schema.MODEL_FILE, schema.MODEL_META_FILE)}
    shutil.rmtree(resumed.path)
    whole = fit(store, ds, splits[0], network())
    assert {n: (whole.path / n).read_bytes() for n in bytes_of} == bytes_of


def test_a_display_of_text_alone_is_enough(store, ds, splits, network):
    texts = []
    fit(store, ds, splits[0], network(), texts.append)
    assert any(t.startswith("fitting net") for t in texts)


def test_a_fit_is_given_the_encoder_and_its_key_depends_on_it(store, ds, splits, network):
    made = pretrain(store, ds, splits[0], CONFIG)
    fitted = fit(store, ds, splits[0], network(pretrained_encoder=made.key))
    assert load_model(fitted.path).training["encoder"] == 4
    assert fit(store, ds, splits[0], network(pretrained_encoder=made.key)).reused
    told = json.loads((fitted.path / "fit.json").read_text())
    gathered = gather(store, ds, splits[0], Needs(encoder=made.key))
    assert told["side_info"]["encoder"] == gathered.digests["encoder"]
    # The same name with other weights behind it is another fit.
    other = pretrain(store, ds, splits[0], CONFIG, seed=1)
    shutil.copyfile(other.path / schema.ENCODER_FILE, made.path / schema.ENCODER_FILE)
    assert not fit(store, ds, splits[0], network(pretrained_encoder=made.key)).reused


def test_a_fit_with_an_encoder_of_another_split_is_refused(store, ds, splits, network):
    made = pretrain(store, ds, splits[0], CONFIG)
    with pytest.raises(ModelError, match="must not be used with split"):
        fit(store, ds, splits[1], network(pretrained_encoder=made.key))


def test_the_audit_is_told_of_the_encoder(store, ds, splits):
    made = pretrain(store, ds, splits[0], CONFIG)
    (record,) = made_of(gather(store, ds, splits[0], Needs(encoder=made.key)))
    assert (record.what, record.split_hash, record.rows) == ("encoder", splits[0].hash, "fit")


def test_without_an_encoder_nothing_is_said_of_it():
    assert "encoder" not in SideInfo().digests


def test_an_entry_with_an_encoder_needs_cells(network):
    entry = ModelEntry(name="net", description="x", model=Network.name, params={"pretrained_encoder": "mlp"})
    assert why_not(SplitTraits(), entry) is None
    assert "differences only" in (why_not(SplitTraits(controls=False), entry) or "")
