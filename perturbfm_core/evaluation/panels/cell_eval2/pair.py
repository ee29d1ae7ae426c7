"""A file of predicted cells scored against one of measured cells, without data set or split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core.errors import ConfigError
from perturbfm_core.evaluation.panels.cell_eval2 import files
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.anchor import anchor_means, anchor_splits
from perturbfm_core.evaluation.panels.cell_eval2.cells import InputType
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, Values, evaluate
from perturbfm_core.evaluation.panels.cell_eval2.mixed import beside_log_values
from perturbfm_core.evaluation.panels.cell_eval2.scores import Score, is_of_challenge, score_table
from perturbfm_core.evaluation.panels.cell_eval2.targets import ANY
from perturbfm_core.progress import Progress, quiet


@dataclass(frozen=True)
class PairFiles:
    """Files of cells that are scored against each other, and how they are read.

    Attributes
    ----------
    real, pred
        Measured and predicted cells.
    baseline
        Cells of a baseline, which the scores are scaled by.
    pert_col, control
        Column of ``obs`` with the labels, and the label of control cells.
    real_type, pred_type
        What the values are: ``counts`` or ``lognorm``; those of the baseline are as the measured.
    targets
        Whether perturbations have target genes.
    """

    real: Path
    pred: Path
    baseline: Path | None
    pert_col: str
    control: str
    real_type: InputType
    pred_type: InputType
    targets: bool = True


@dataclass(frozen=True)
class PairScores:
    """Scores of a pair of files.

    Attributes
    ----------
    values
        Values per perturbation.
    statistics
        {statistic: {metric: its value over perturbations}}.
    scores
        Scores on the scale of the baseline, the average last; empty without one.
    """

    values: Values
    statistics: Mapping[str, Mapping[str, float]]
    scores: list[Score]

    def tables(self) -> dict[str, str]:
        """Return {file name: content} of the result files."""
        tables = {
            files.RESULTS_FILE: files.results_csv(self.values),
            files.AGGREGATES_FILE: files.aggregates_csv(self.statistics),
        }
        return tables | ({files.SCORE_FILE: files.score_csv(self.scores)} if self.scores else {})


def score_files(pair: PairFiles, metrics: Sequence[str], tell: Progress = quiet) -> PairScores:
    """Score predicted cells against measured ones; no more than two of the files are in memory at once.

    Parameters
    ----------
    pair
        The files.
    metrics
        Names of the metrics.
    tell
        Called with a line of progress.

    Raises
    ------
    ConfigError
        If the types of the files have no common scale.
    """
    mixed = pair.pred_type != pair.real_type
    if mixed and pair.real_type == "lognorm":
        msg = "log1p values cannot be turned back into counts; give measured counts, or log1p values of both"
        raise ConfigError(msg)
    if mixed and pair.baseline is not None:
        msg = "a baseline and replicates of counts are no scale for log1p values; leave out --baseline"
        raise ConfigError(msg)
    tell("reading")
    labels = pair.pert_col, pair.control
    others = {"prediction": pair.pred} | ({} if pair.baseline is None else {"baseline": pair.baseline})
    files.check_files(pair.real, others, *labels)
    cells, order = files.read_cells(pair.real, *labels, pair.real_type)
    truth = Truth(cells, target_genes=None if pair.targets else {ANY: None})
    if mixed:
        truth = beside_log_values(truth)
    replicates = None
    if pair.baseline is not None:
        tell("scoring halves of the measured cells")
        replicates = anchor_means(anchor_splits(truth, metrics, order=order))
    # The measured cells go before the predicted ones come: either may fill the memory.
    tell("comparing the measured cells with their controls")
    truth = truth.released()
    del cells
    tell("reading the prediction")
    predicted, _ = files.read_cells(pair.pred, *labels, pair.pred_type)
    tell("scoring")
    values = evaluate(truth, predicted, metrics)
    statistics = aggregates(values)
    del predicted
    scores: list[Score] = []
    if pair.baseline is not None:
        tell("scoring the baseline")
        # A baseline may be made of scaled counts, which are no whole numbers.
        base, _ = files.read_cells(pair.baseline, *labels, pair.real_type, whole=False)
        means = aggregates(evaluate(truth, base, metrics))["mean"]
        own = is_of_challenge(pair.control, pair.real_type, targets=pair.targets)
        scores = score_table(statistics["mean"], means, replicates, of_challenge=own)
    return PairScores(values, statistics, scores)
