"""Stage `publishing`: a prediction file that was made elsewhere as a run, which the leaderboard ranks beside all others."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.config import check_key, content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction, write_prediction
from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.errors import ConfigError, PredictionError, StoreError
from perturbfm_core.evaluation.submitted import Missing
from perturbfm_core.models.base import MODELS
from perturbfm_core.parsing import open_regular
from perturbfm_core.pipeline.metric_panel import Scores, observed_side, scoring_code
from perturbfm_core.pipeline.report import described
from perturbfm_core.pipeline.submission import made_elsewhere, result_files, score_file
from perturbfm_core.progress import FOUND, Progress, quiet
from perturbfm_core.schema import CountGenerator, PredictionKind
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import file_digest, write_atomic
from perturbfm_core.store.code import code_of
from perturbfm_core.store.entry_names import run_of_entry
from perturbfm_core.store.run_index import runs_named
from perturbfm_core.store.run_publication import publish_run
from perturbfm_core.store.run_record import RunRecord, SubmissionRecord, is_whole, read_run_record
from perturbfm_core.store.run_requests import note_request

_MAX_NOTE = 500


@dataclass(frozen=True)
class Submission:
    """A prediction file and what its author says of it.

    Attributes
    ----------
    file
        The file: npz, h5ad, parquet or CSV.
    entry, seed
        Name on the leaderboard, and the seed that the model was trained with; files of several seeds are averaged.
    note, url
        A line about the model, and where more is to be found.
    kind, missing, columns
        See `perturbfm_core.pipeline.submission.read_submission`.
    generator
        How counts are drawn of its means, the default if None.
    """

    file: Path
    entry: str
    seed: int = 0
    note: str | None = None
    url: str | None = None
    kind: PredictionKind | None = None
    missing: Missing = "refuse"
    columns: LabelColumns = field(default_factory=LabelColumns)
    generator: CountGenerator | None = None

    @property
    def entry_hash(self) -> str:
        """Return the identity of the entry: a later file of it takes the place of an earlier one."""
        return content_hash({"external": self.entry})

    @property
    def config_hash(self) -> str:
        """Return the identity of the entry with its seed."""
        return content_hash({"external": self.entry, "seed": self.seed})

    @property
    def options(self) -> dict[str, str]:
        """Return how the file is read, as far as that is given."""
        named = {f.name: getattr(self.columns, f.name) for f in fields(self.columns)}
        missing = None if self.missing == "refuse" else self.missing
        given = {"kind": self.kind, "missing": missing, "generator": self.generator, **named}
        return {name: value for name, value in given.items() if value and isinstance(value, str)}


def publish_submission(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    submission: Submission,
    *,
    again: bool = False,
    tell: Progress = quiet,
) -> Path:
    """Score a prediction file and publish it as a run of family ``external``, or find the run of that file.

    Parameters
    ----------
    store
        Where the run is published.
    ds, split
        Data and split.
    submission
        The file and what is said of it.
    again
        Whether a new run is published though there is one.
    tell
        Called with a line of text about progress.

    Raises
    ------
    ConfigError
        If the name is none, or is that of something else; or note or address are none.
    PredictionError
        If the file does not cover, or does not belong to, the split.
    """
    check_submission(store, submission)
    split.check_dataset(ds)
    name = f"{split.hash[:7]}_{submission.entry}_{submission.config_hash[:8]}"
    with store.lock(f"run-{name}", what=f"the submission {name}", tell=tell):
        digest = _digest(submission.file)
        earlier = list(_earlier(store, name))
        if not again:
            for path, record in earlier:
                if _is_same(record, submission, digest) and is_whole(path, record):
                    note_request(store, path)
                    tell(f"{FOUND}{path.name}")
                    return path
        tell(f"scoring {submission.entry}, seed {submission.seed}")
        scores = score_file(
            store,
            ds,
            split,
            submission.file,
            kind=submission.kind,
            missing=submission.missing,
            columns=submission.columns,
            generator=submission.generator,
        )
        if _digest(submission.file) != digest:
            msg = f"{submission.file} changed while it was scored; hand it in once it is complete"
            raise PredictionError(msg)
        record = _record(ds, split, scores, submission, digest)
        if earlier:
            record = record.model_copy(update={"parent_run": earlier[0][1].run_id})
        return publish_scores(store, ds, split, scores, record)


def check_submission(store: ArtifactStore, submission: Submission) -> None:
    """Refuse a submission whose name is taken, or whose seed, note or address are none.

    Raises
    ------
    ConfigError
        With what to give instead.
    """
    entry = check_key(submission.entry, "entry")
    if entry in load_catalog().models or entry in MODELS:
        msg = f"entry {entry!r} is a model of the catalog, whose results only `perturbfm run` publishes; choose another --entry"
        raise ConfigError(msg)
    if (run := run_of_entry(store, entry, external=False)) is not None:
        msg = f"entry {entry!r} has runs of a fitted model, e.g. {run}; choose another --entry"
        raise ConfigError(msg)
    if not 0 <= submission.seed < 2**53:
        msg = f"seed {submission.seed} is not a whole number of 0 or more; give the seed that the model was trained with"
        raise ConfigError(msg)
    if submission.url is not None and not submission.url.startswith(("https://", "http://")):
        msg = f"url {submission.url[:60]!r} is no address; it begins with https:// or http://"
        raise ConfigError(msg)
    for what, text in (("note", submission.note), ("url", submission.url)):
        if text is not None and (len(text) > _MAX_NOTE or not text.isprintable()):
            msg = f"{what} must be one line of at most {_MAX_NOTE} characters, found {len(text)}"
            raise ConfigError(msg)


def _digest(file: Path) -> str:
    with open_regular(file, PredictionError) as handle:
        digest = hashlib.sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def _earlier(store: ArtifactStore, name: str) -> Iterator[tuple[Path, RunRecord]]:
    """Yield the runs of the same split, entry and seed, newest first."""
    for path in reversed(runs_named(store, name)):
        with contextlib.suppress(StoreError):
            yield path, read_run_record(path)


def _code() -> dict[str, str]:
    panels = content_hash(scoring_code())
    return {"submission": code_of("perturbfm_core.pipeline.submission").digest, "metric_panel": panels}


def _is_same(record: RunRecord, submission: Submission, digest: str) -> bool:
    found = record.submission
    return (
        found is not None
        and (found.sha256, found.options) == (digest, submission.options)
        and record.code == _code()
    )


def _record(
    ds: PerturbDataset, split: FrozenSplit, scores: Scores, submission: Submission, digest: str
) -> RunRecord:
    """Return the record of the run, but for its id."""
    known: dict[str, Any] = {
        **described(ds, split, scores.comparison, scores.stats),
        **made_elsewhere(scores),
        "code": _code(),
    }
    return RunRecord(
        **known,
        run_id="",
        entry=submission.entry,
        seed=submission.seed,
        config_hash=submission.config_hash,
        entry_hash=submission.entry_hash,
        submission=SubmissionRecord(
            file=submission.file.name,
            sha256=digest,
            note=submission.note,
            url=submission.url,
            options=submission.options,
        ),
    )


def publish_scores(
    store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit, scores: Scores, record: RunRecord
) -> Path:
    """Publish scores of a prediction made elsewhere as a run directory, by one rename, and return it.

    Parameters
    ----------
    store
        Where the run is published.
    ds, split, scores
        Data, split, and the scores on it.
    record
        The record of the run, but for its id and files.
    """

    def fill(folder: Path, named: RunRecord) -> None:
        for name, content in result_files(named, split, scores, store).items():
            write_atomic(folder / name, content)
        write_atomic(folder / schema.SPLIT_HASH_FILE, split.hash + "\n")
        write_prediction(_prediction(ds, split, scores), folder / schema.PREDICTIONS_FILE)
        files = {p.name: file_digest(p) for p in sorted(folder.iterdir())}
        named.model_copy(update={"files": files}).write(folder)

    return publish_run(store, record, fill, external=record.family == "external")


def _prediction(ds: PerturbDataset, split: FrozenSplit, scores: Scores) -> RowPrediction:
    """Return what was scored, one row per test condition, in the form of a run's own predictions."""
    c, side = scores.comparison, observed_side(ds, split)
    return RowPrediction(
        mean=c.predicted.astype(np.float32),
        var=c.predicted_var.astype(np.float32),
        idx=side.rows,
        row=side.codes.astype(np.int64),
        genes=ds.genes,
        row_id=ds.row_ids[side.rows],
        split_hash=split.hash,
        data_content_sha256=ds.content_sha256,
        space="log1p" if ds.metadata.space == "counts" else ds.metadata.space,
        control=ds.metadata.control_policy,
        var_epistemic=None if c.var_epistemic is None else c.var_epistemic.astype(np.float32),
        intervals=c.intervals,
        kind="delta",
        condition=np.asarray([str(k) for k in c.conditions.index], dtype=np.str_),
        not_predicted=c.not_predicted,
        warnings=tuple(c.notes.get("warnings", ())),
    )
