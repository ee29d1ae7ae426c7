"""``perturbfm metrics score-pair``: a predicted file against a measured one, without data set or split."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, progress
from perturbfm_core.errors import ConfigError

if TYPE_CHECKING:
    from perturbfm_core.evaluation.panels.cell_eval2.cells import InputType


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
    from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
    from perturbfm_core.evaluation.panels.cell_eval2.anchor import anchor_means, anchor_splits
    from perturbfm_core.evaluation.panels.cell_eval2.catalog import NORM, PROFILES
    from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate
    from perturbfm_core.evaluation.panels.cell_eval2.mixed import beside_log_values
    from perturbfm_core.evaluation.panels.cell_eval2.scores import is_of_challenge, score_table
    from perturbfm_core.evaluation.panels.cell_eval2.targets import ANY
    from perturbfm_core.store.atomic import write_together

    metrics = PROFILES[profile.value]
    kind: InputType = input_type.value
    of_pred: InputType = kind if pred_input_type is None else pred_input_type.value
    mixed = of_pred != kind
    if mixed and kind == "lognorm":
        msg = "log1p values cannot be turned back into counts; give measured counts, or log1p values of both"
        raise ConfigError(msg)
    if mixed and baseline is not None:
        msg = "a baseline and replicates of counts are no scale for log1p values; leave out --baseline"
        raise ConfigError(msg)
    with progress() as tell:
        tell("reading")
        others = {"prediction": pred} if baseline is None else {"prediction": pred, "baseline": baseline}
        files.check_files(real, others, pert_col, control)
        cells, order = files.read_cells(real, pert_col, control, kind)
        truth = Truth(cells, target_genes={ANY: None} if no_target_genes else None)
        if mixed:
            truth = beside_log_values(truth)
        replicates = None
        if baseline is not None:
            tell("scoring halves of the measured cells")
            replicates = anchor_means(anchor_splits(truth, metrics, order=order))
        # The measured cells go before the predicted ones come: either may fill the memory.
        tell("comparing the measured cells with their controls")
        truth = truth.released()
        del cells
        tell("reading the prediction")
        predicted, _ = files.read_cells(pred, pert_col, control, of_pred)
        tell("scoring")
        values = evaluate(truth, predicted, metrics)
        statistics = aggregates(values)
        del predicted
        tables = {
            files.RESULTS_FILE: files.results_csv(values),
            files.AGGREGATES_FILE: files.aggregates_csv(statistics),
        }
        scores = []
        if baseline is not None:
            tell("scoring the baseline")
            # A baseline may be made of scaled counts, which are no whole numbers.
            base, _ = files.read_cells(baseline, pert_col, control, kind, whole=False)
            means = aggregates(evaluate(truth, base, metrics))["mean"]
            del base
            own = is_of_challenge(control, kind, targets=not no_target_genes)
            scores = score_table(statistics["mean"], means, replicates, of_challenge=own)
            tables[files.SCORE_FILE] = files.score_csv(scores)
        # All of them or none.
        write_together(out, tables)
    emit(
        {
            "results": str(out / files.RESULTS_FILE),
            "agg_results": str(out / files.AGGREGATES_FILE),
            **({"score": str(out / files.SCORE_FILE)} if scores else {}),
            **{m: statistics["mean"][m] for m in PROFILES["vcc2026"] if m == NORM or m in values.values},
            **({"avg_score": scores[-1].from_replicate} if scores else {}),
        },
        as_json,
    )
