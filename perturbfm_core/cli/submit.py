"""``perturbfm submit``: a prediction file made elsewhere published as a run, and thereby ranked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, SplitDataOption, SplitOption, emit, progress, store
from perturbfm_core.cli.prediction_options import (
    AgainOption,
    ConditionColumn,
    ContextColumn,
    ControlLabel,
    GeneColumn,
    GeneratorOption,
    KindOption,
    Layer,
    MissingConditions,
    MissingOption,
    NoteOption,
    PerturbationColumn,
    SeedOption,
    UrlOption,
    described_run,
)
from perturbfm_core.progress import FoundRuns


def submit(
    file: Annotated[Path, typer.Argument(help="The prediction file: npz, h5ad, parquet or CSV.")],
    split: SplitOption,
    entry: Annotated[str, typer.Option("--entry", help="Name on the leaderboard.")],
    data: SplitDataOption = None,
    seed: SeedOption = 0,
    note: NoteOption = None,
    url: UrlOption = None,
    kind: KindOption = None,
    missing: MissingConditions = MissingOption.refuse,
    condition_col: ConditionColumn = None,
    pert_col: PerturbationColumn = None,
    context_col: ContextColumn = None,
    control_label: ControlLabel = None,
    layer: Layer = None,
    gene_col: GeneColumn = None,
    generator: GeneratorOption = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish predictions made elsewhere as a run, scored and ranked beside all others."""
    from perturbfm_core.data.prediction_labels import LabelColumns
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.pipeline.publishing import Submission, publish_submission
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    submission = Submission(
        file=file,
        entry=entry,
        seed=seed,
        note=note,
        url=url,
        kind=None if kind is None else kind.value,
        missing=missing.value,
        columns=LabelColumns(condition_col, pert_col, context_col, control_label, layer, gene_col),
        generator=None if generator is None else generator.value,
    )
    with progress() as shown:
        tell = FoundRuns(shown)
        ds = dataset_of(home, frozen_split, data)
        path = publish_submission(home, ds, frozen_split, submission, again=again, tell=tell)
    emit({**described_run(path), "existing": path.name in tell.ids}, as_json)


COMMANDS = {"submit": (submit, None)}
