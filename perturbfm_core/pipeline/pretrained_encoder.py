"""Stage `pretrained_encoder`: cell encoders pre-trained for one split, found by key or path, checked before use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from threadpoolctl import threadpool_limits

from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import ModelError
from perturbfm_core.graphs.side_info import EncoderFolder
from perturbfm_core.progress import Progress, epoch_listener, quiet, run_of
from perturbfm_core.splits.audit.core import require_clean
from perturbfm_core.splits.folder import MIN_PREFIX
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.artifacts import Artifact, ArtifactStore
from perturbfm_core.store.atomic import file_digest, read_json, write_json
from perturbfm_core.store.code import code_of
from perturbfm_core.store.machine import cores, environment

if TYPE_CHECKING:
    from perturbfm_core.models.perturbfm.encoder.pretraining import PretrainConfig


Kind = Literal["mlp", "set-transformer"]


def no_cells(traits: SplitTraits) -> str | None:
    """Return why nothing can be pre-trained on a split, None if it can."""
    if not traits.controls:
        return "needs expression of cells, the data set has differences only"
    return None


def default_config(kind: str = "mlp") -> PretrainConfig:
    """Return the settings with which an encoder of a kind is pre-trained unless others are given."""
    from perturbfm_core.models.perturbfm.encoder.module import EncoderConfig
    from perturbfm_core.models.perturbfm.encoder.pretraining import PretrainConfig

    # Tokens of all genes are dear to attend to, and the most variable ones tell a cell's state.
    form = {"kind": kind, "hvg_count": 1000 if kind == "set-transformer" else None}
    return PretrainConfig(encoder=EncoderConfig.model_validate(form))


def pretrain(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    config: PretrainConfig,
    seed: int = 0,
    tell: Progress = quiet,
) -> Artifact:
    """Pre-train a cell encoder on a split's train rows, or find the one of the same inputs and code.

    Data and split are verified and audited first; one of the training slots is held. An interrupted training
    goes on where it was when it is asked for again.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    split
        The split.
    config
        Form of the encoder and of its training.
    seed
        Seed of everything random.
    tell
        Called with a line of text about progress.
    """
    split.check_dataset(ds)
    require_clean(ds, split)
    key = content_hash(
        {
            "stage": "encoder",
            "data": ds.content_sha256,
            "split": split.hash,
            "config": config.model_dump(mode="json"),
            "seed": seed,
            "code": code_of(__name__).digest,
        }
    )
    path = store.object(key)
    if path.is_dir():
        return Artifact(key, path, reused=True)
    # Torch takes a second to load, which other stages and verbs need not wait for.
    from perturbfm_core.models.perturbfm.encoder import pretraining
    from perturbfm_core.training.checkpoints import Checkpoint

    view = train_view(ds, split)
    with store.training_slot(run_of(tell, f"{split.hash[:7]}_pre-training"), tell) as slots:

        def fill(folder: Path) -> None:
            tell(f"pre-training a {config.encoder.kind} encoder, seed {seed}")
            with threadpool_limits(limits=max(1, cores() // slots)):
                made = pretraining.pretrain(
                    view,
                    config,
                    seed,
                    split_hash=split.hash,
                    on_epoch=epoch_listener(tell),
                    checkpoint=Checkpoint(store.checkpoints(key)),
                )
            pretraining.save_encoder(made, folder)
            write_json(folder / "pretrain.json", {"environment": environment()})

        reused = path.is_dir()
        store.put_object(key, fill)
    shutil.rmtree(store.checkpoints(key), ignore_errors=True)
    return Artifact(key, path, reused)


def find_encoder(
    store: ArtifactStore,
    name: str,
    ds: PerturbDataset,
    split: FrozenSplit,
    tell: Progress = quiet,
) -> EncoderFolder:
    """Return the encoder called `name`, if it was pre-trained for this split and these genes.

    Parameters
    ----------
    store
        Where artifacts lie.
    ds
        The data set.
    split
        The split.
    tell
        Called with a line of text about progress.
    name
        A folder; or the key of an object of the store, or a prefix of it of at least 7 characters; or a kind of
        encoder (``mlp``, ``set-transformer``): the one with default settings, made here if it is not there yet.

    Raises
    ------
    ModelError
        If there is none, or it belongs to another split or other genes.
    """
    folder = _folder_of(store, name, ds, split, tell)
    meta = read_json(folder / schema.ENCODER_META_FILE, ModelError)
    weights = folder / schema.ENCODER_FILE
    if not isinstance(meta, dict) or "split_hash" not in meta or not weights.is_file():
        msg = f"{folder} does not hold a whole encoder; pre-train it again"
        raise ModelError(msg)
    trained_on = str(meta["split_hash"])
    if trained_on != split.hash:
        msg = (
            f"encoder {name!r} was pre-trained on the train rows of split {trained_on[:12]} and must not be used with "
            f"split {split.hash[:12]}; pre-train one with `perturbfm pretrain --split {split.hash[:12]}`"
        )
        raise ModelError(msg)
    if meta.get("genes_sha256") != ds.genes_sha256:
        msg = f"encoder {name!r} reads other genes than {ds.name!r} has; pre-train one on this data"
        raise ModelError(msg)
    # The form is in one file, the weights are in the other.
    digest = content_hash([file_digest(weights), file_digest(folder / schema.ENCODER_META_FILE)])
    return EncoderFolder(folder, digest, trained_on)


def _folder_of(
    store: ArtifactStore, name: str, ds: PerturbDataset, split: FrozenSplit, tell: Progress
) -> Path:
    if name in get_args(Kind):
        return pretrain(store, ds, split, default_config(name), tell=tell).path
    if (Path(name) / schema.ENCODER_META_FILE).is_file():
        return Path(name)
    hits: list[Path] = []
    if len(name) >= MIN_PREFIX and set(name) <= set("0123456789abcdef"):
        found = store.objects.glob(f"{name[:2]}/{name}*/{schema.ENCODER_META_FILE}")
        hits = sorted(p.parent for p in found)
    if len(hits) != 1:
        what = f"{len(hits)} encoders" if hits else "no encoder"
        msg = (
            f"{what} called {name!r}: give the folder or the object key that `perturbfm pretrain` printed "
            f"(at least {MIN_PREFIX} characters), or one of {', '.join(get_args(Kind))} for the default of its kind"
        )
        raise ModelError(msg)
    return hits[0]
