"""A run's predictions as files of counts of cells, in the form of the 2026 Virtual Cell Challenge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perturbfm_core import schema
from perturbfm_core.errors import ConfigError

if TYPE_CHECKING:
    from perturbfm_core.evaluation.comparison import Comparison
    from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells
    from perturbfm_core.store.artifacts import ArtifactStore
    from perturbfm_core.store.run_record import RunRecord


@dataclass(frozen=True)
class ChallengeFiles:
    """What is written of a run.

    Attributes
    ----------
    out
        The file of the predicted cells.
    real, baseline
        Files of the measured cells and of the mean-response baseline, None to leave them out.
    context
        The context, None for the only one.
    pert_col, control_label
        obs column of the labels, and the label of control cells.
    data
        Directory of the data set, None to look for it.
    """

    out: Path
    real: Path | None
    baseline: Path | None
    context: str | None
    pert_col: str
    control_label: str
    data: Path | None

    def only_of_the_challenge(self, pert_col: str | None, control_label: str | None) -> str | None:
        """Return an option that was given though no challenge file is written, None without one.

        Parameters
        ----------
        pert_col, control_label
            The options as they were given.
        """
        given = {
            "--context": self.context,
            "--pert-col": pert_col,
            "--control-label": control_label,
            "--real": self.real,
            "--baseline": self.baseline,
            "--data": self.data,
        }
        return next((option for option, value in given.items() if value is not None), None)


def export_counts(store: ArtifactStore, run: Path, files: ChallengeFiles) -> dict[str, Any]:
    """Write a run's predicted cells as counts, and return what was written.

    Parameters
    ----------
    store
        Where data set and split are looked for.
    run
        The run directory.
    files
        What is written.

    Raises
    ------
    ConfigError
        If a name is no h5ad file, or the run was scored on counts that it does not keep.
    MetricError
        If the challenge does not take what would be written.
    """
    from perturbfm_core.evaluation.panels.cell_eval2.baseline import mean_response, mean_response_cells
    from perturbfm_core.evaluation.panels.cell_eval2.challenge_file import sample_for_file
    from perturbfm_core.store.run_record import read_run_record

    wanted = {"out": files.out, "real": files.real, "baseline": files.baseline}
    for option, file in wanted.items():
        if file is not None and file.suffix.lower() != ".h5ad":
            msg = f"the challenge takes h5ad files; give --{option} a name that ends in .h5ad, not {file.name!r}"
            raise ConfigError(msg)
    places = [file.resolve() for file in wanted.values() if file is not None]
    if len(set(places)) < len(places):
        msg = "--out, --real and --baseline must be different files"
        raise ConfigError(msg)
    record = read_run_record(run)
    if record.notes.get("kind") == "counts":
        source = "a file" if record.submission is None else record.submission.file
        msg = (
            f"run {record.run_id} was scored on the counts of {source}, which a run does not keep; that file has the form "
            "of the challenge already"
        )
        raise ConfigError(msg)
    comparison = _comparison(store, run, record, files.data)
    sample = sample_for_file(comparison, files.context, files.control_label)
    if files.baseline is not None:
        # What has no baseline is refused before the other files are written.
        mean_response(sample.truth)
    stated = {
        "split_hash": record.split_hash,
        "data_content_sha256": record.data_hash,
        "run": record.run_id,
        "entry": record.entry,
        "counts_from": _generator(comparison),
    }
    parts = [_Part(files.out, lambda: sample.predicted, stated)]
    if files.real is not None:
        parts.append(_Part(files.real, lambda: sample.truth.cells))
    if files.baseline is not None:
        parts.append(_Part(files.baseline, lambda: mean_response_cells(sample.truth), whole=False))
    written = _write(parts, files, sample.context)
    return {
        **{name: str(file) for name, file in wanted.items() if file is not None},
        "format": "vcc2026",
        "context": sample.context,
        **written,
        "counts_from": stated["counts_from"],
        "pert_col": files.pert_col,
        "control_label": files.control_label,
    }


def _comparison(store: ArtifactStore, run: Path, record: RunRecord, data: Path | None) -> Comparison:
    """Return the comparison that the run was scored on."""
    from perturbfm_core.config import parse
    from perturbfm_core.data.prediction import read_prediction
    from perturbfm_core.evaluation.cells import Generator
    from perturbfm_core.evaluation.comparison import compare
    from perturbfm_core.pipeline.dataset import dataset_of, find_dataset
    from perturbfm_core.splits.folder import SplitFolder

    split = SplitFolder(store.split_dir).load(record.split_hash)
    ds = dataset_of(store, split, data or find_dataset(store, split) or _recorded(record))
    split.check_dataset(ds)
    generator = parse(Generator, record.generator or {}, f"the generator of run {record.run_id}")
    return compare(ds, split, read_prediction(run / schema.PREDICTIONS_FILE), generator=generator)


def _recorded(record: RunRecord) -> Path | None:
    """Return where the data set lay when the run was made, if it still lies there."""
    from perturbfm_core.pipeline.dataset import metadata_of

    path = None if record.dataset.path is None else Path(record.dataset.path)
    if path is None or not (path / schema.META_FILE).is_file():
        return None
    return path if metadata_of(path).get("content_sha256") == record.data_hash else None


def _generator(comparison: Comparison) -> str:
    cells: Any = comparison.cells
    g = cells.generator
    return f"{g.counts} {g.counts_version}, seed {g.seed}"


@dataclass(frozen=True)
class _Part:
    """A file to write: where, of which cells, what `uns` says of it, and whether values must be whole numbers."""

    path: Path
    cells: Callable[[], LabelledCells]
    stated: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True


def _write(parts: Sequence[_Part], files: ChallengeFiles, context: str) -> dict[str, int]:
    """Write files, none of which is in its place before all are written; return what the first one holds."""
    from perturbfm_core.evaluation.panels.cell_eval2.challenge_file import write_challenge_file
    from perturbfm_core.store.atomic import publish_file

    counted: dict[str, int] = {}
    part, rest = parts[0], parts[1:]

    def fill(staged: Path) -> None:
        counted.update(
            write_challenge_file(
                staged,
                part.cells(),
                pert_col=files.pert_col,
                control_label=files.control_label,
                context=context,
                whole=part.whole,
                stated=part.stated,
            )
        )
        if rest:
            _write(rest, files, context)

    publish_file(part.path, fill)
    return counted
