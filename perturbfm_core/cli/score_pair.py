"""``perturbfm metrics score-pair``: a predicted file against a measured one, without data set or split."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, progress


class InputTypeOption(StrEnum):
    """What the values of a file are."""

    counts = "counts"
    lognorm = "lognorm"


class ProfileOption(StrEnum):
    """Which metrics are computed."""

    vcc2026 = "vcc2026"
    full = "full"


def score_pair(
    pred: Annotated[Path, typer.Option("--pred", help="Predicted cells, h5ad.")],
    real: Annotated[Path, typer.Option("--real", help="Measured cells, h5ad, same genes and labels.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for results.csv and agg_results.csv.")],
    pert_col: Annotated[str, typer.Option("--pert-col", help="obs column with the labels.")] = "target",
    control: Annotated[str, typer.Option("--control", help="Label of control cells.")] = "non-targeting",
    input_type: Annotated[
        InputTypeOption,
        typer.Option("--input-type", help="What the values are: counts, or log1p of scaled counts."),
    ] = InputTypeOption.counts,
    pred_input_type: Annotated[
        InputTypeOption | None,
        typer.Option(
            "--pred-input-type", help="What the predicted values are, if not what the measured are."
        ),
    ] = None,
    profile: Annotated[
        ProfileOption, typer.Option("--profile", help="The challenge's metrics, or all of them.")
    ] = ProfileOption.vcc2026,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Cells of a baseline, h5ad: also write score.csv, its scale."),
    ] = None,
    no_target_genes: Annotated[
        bool, typer.Option("--no-target-genes", help="Perturbations such as drugs have no target gene.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score predicted cells against measured ones with the metrics of the 2026 Virtual Cell Challenge."""
    from perturbfm_core.evaluation.panels.cell_eval2 import files
    from perturbfm_core.evaluation.panels.cell_eval2.catalog import NORM, PROFILES
    from perturbfm_core.evaluation.panels.cell_eval2.pair import PairFiles, score_files
    from perturbfm_core.store.atomic import write_together

    pair = PairFiles(
        real=real,
        pred=pred,
        baseline=baseline,
        pert_col=pert_col,
        control=control,
        real_type=input_type.value,
        pred_type=(pred_input_type or input_type).value,
        targets=not no_target_genes,
    )
    with progress() as tell:
        scored = score_files(pair, PROFILES[profile.value], tell)
        # All of them or none.
        write_together(out, scored.tables())
    emit(
        {
            "results": str(out / files.RESULTS_FILE),
            "agg_results": str(out / files.AGGREGATES_FILE),
            **({"score": str(out / files.SCORE_FILE)} if scored.scores else {}),
            **{
                m: scored.statistics["mean"][m]
                for m in PROFILES["vcc2026"]
                if m == NORM or m in scored.values.values
            },
            **({"avg_score": scored.scores[-1].from_replicate} if scored.scores else {}),
        },
        as_json,
    )
