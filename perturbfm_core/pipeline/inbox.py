"""Stage `inbox`: prediction files and their descriptions in a folder, each published as a run or refused, once.

A submission is a YAML file (`inbox_files.Request`) beside the prediction file that it describes. What was published moves to
``inbox/accepted/``, what cannot be moves to ``inbox/rejected/`` with a file that says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perturbfm_core import schema
from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.errors import DiskError, PerturbFMError
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.dataset_names import dataset_place
from perturbfm_core.pipeline.inbox_files import (
    ACCEPTED,
    ENDINGS,
    REJECTED,
    Request,
    descriptions,
    file_of,
    inbox_of,
    is_complete,
    move_parts,
    read_request,
    restore_parts,
    undescribed,
)
from perturbfm_core.pipeline.publishing import Submission, publish_submission
from perturbfm_core.progress import FOUND, Progress, quiet
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore


@dataclass(frozen=True)
class Outcome:
    """What became of a submission.

    Attributes
    ----------
    name
        Name of its YAML file, or of a file without one.
    status
        ``published``, ``existing`` (the run was there), ``rejected`` or ``waiting`` (a part is not there yet).
    run_id
        The run, None where there is none.
    reason
        Why it was rejected or waits.
    """

    name: str
    status: Literal["published", "existing", "rejected", "waiting"]
    run_id: str | None = None
    reason: str | None = None


def scan_inbox(store: ArtifactStore, tell: Progress = quiet) -> list[Outcome]:
    """Publish every submission of the inbox, or move it to the rejected ones; each is taken once.

    Raises
    ------
    DiskError
        If the disk refuses a write: what is left stays in the inbox.
    """
    inbox = inbox_of(store)
    with store.lock("inbox", what="a scan of the inbox", tell=tell):
        restore_parts(inbox)
        return [_take(store, inbox, description, tell) for description in descriptions(inbox)] + [
            Outcome(name, "waiting", reason=f"there is no {Path(name).stem}.yaml that describes it")
            for name in undescribed(inbox)
        ]


def _take(store: ArtifactStore, inbox: Path, description: Path, tell: Progress) -> Outcome:
    file: Path | None = None
    try:
        request = read_request(description)
        file = file_of(inbox, description, request)
        if not is_complete(file):
            wanted = file.name if request.file else f"{description.stem} with one of {', '.join(ENDINGS)}"
            return Outcome(description.name, "waiting", reason=f"there is no {wanted} beside it yet")
        heard: list[str] = []

        def listen(text: str) -> None:
            heard.append(text)
            tell(text)

        run = _publish(store, file, request, listen)
    except DiskError:
        raise
    except PerturbFMError as error:
        reason = " ".join(str(error).split())
        parts = [description] if file is None else [file, description]
        if file is None:
            # Whatever has its name is the file that a description that cannot be read is about.
            parts = [*(p for p in inbox.glob("*") if p.stem == description.stem and p != description), *parts]
        move_parts(inbox / REJECTED, parts, description.stem, reason)
        return Outcome(description.name, "rejected", reason=reason)
    status: Literal["existing", "published"] = (
        "existing" if any(t.startswith(FOUND) for t in heard) else "published"
    )
    move_parts(inbox / ACCEPTED, [file, description], run.name, None)
    return Outcome(description.name, status, run_id=run.name)


def _publish(store: ArtifactStore, file: Path, request: Request, tell: Progress) -> Path:
    split = SplitFolder(store.split_dir).load(request.split)
    path: Path | None = None
    if request.data is not None:
        # Directories are meant as seen from the home, wherever the scan was started.
        own = store.home / request.data
        path = own if (own / schema.META_FILE).is_file() else dataset_place(store, request.data)
    submission = Submission(
        file=file,
        entry=request.entry,
        seed=request.seed,
        note=request.note,
        url=request.url,
        kind=request.kind,
        missing=request.missing,
        columns=LabelColumns(
            request.condition_col,
            request.pert_col,
            request.context_col,
            request.control_label,
            request.layer,
            request.gene_col,
        ),
        generator=request.generator,
    )
    return publish_submission(store, dataset_of(store, split, path), split, submission, tell=tell)
