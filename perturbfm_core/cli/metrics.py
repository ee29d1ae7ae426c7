"""``perturbfm metrics`` and ``perturbfm parity``: what is measured, and that it is what the peers measure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.cli.output import (
    JsonOption,
    SplitDataOption,
    SplitOption,
    dumps,
    emit,
    emit_table,
    progress,
    store,
)
from perturbfm_core.cli.score_pair import score_pair
from perturbfm_core.errors import ConfigError, MetricError
from perturbfm_core.leaderboard.headline import HEADLINE
from perturbfm_core.parsing import parse_json, read_text

if TYPE_CHECKING:
    from perturbfm_core.evaluation.metric import Metric


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="List, validate and probe the metrics.",
)

PredsOption = Annotated[Path, typer.Option("--preds", help="The prediction file.")]


@app.command("list")
def list_(
    panel: Annotated[str | None, typer.Option(help="Only this panel.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/metrics.md.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List every metric with direction, bounds, version and source."""
    import pandas as pd

    from perturbfm_core.evaluation.panel import PANELS

    names = list(PANELS) if panel is None else [PANELS.get(panel).name]
    if markdown:
        print(metrics_page())
        return
    rows = [_row(m, headline=PANELS.get(n).headline == m.name) for n in names for m in PANELS.get(n).metrics]
    emit_table(
        pd.DataFrame(rows), as_json, empty=f"no metric is registered for {', '.join(names) or 'any panel'}"
    )


def _row(metric: Metric, *, headline: bool) -> dict[str, Any]:
    return {
        "panel": metric.panel,
        "metric": metric.name,
        "headline": headline,
        "better": _better(metric),
        "bounds": _bounds(metric),
        "needs": metric.needs,
        "version": metric.version,
        "source": metric.source,
        "description": metric.description,
    }


def _better(metric: Metric) -> str:
    if metric.direction != "target":
        return metric.direction
    return "describes the data" if metric.target is None else f"near {metric.target:g}"


def _bounds(metric: Metric) -> str:
    low, high = ("-inf" if metric.bounds[0] is None else f"{metric.bounds[0]:g}"), metric.bounds[1]
    return f"{low} to {'inf' if high is None else f'{high:g}'}"


_HEADLINE_TEXT = f"""
## The headline metric

Tables, pages, reports and scorecards show one metric where they show one: **`{HEADLINE}`**, the mean over test
conditions of the Pearson correlation of predicted and observed delta, both minus the mean of the train deltas
(`perturbfm_core/leaderboard/headline.py` names it).

- **Why this one.** Most of a delta is shared by all perturbations of a screen, so that the plain correlation of the train
  mean is high; centred, only what is particular to a condition counts. It has one scale for all data sets, needs neither
  cells nor a variance, and can be checked by hand. `calibrated.headline` is harder to raise, but needs cells.
- **What stands beside it.** The floors *control* (predicting no change) and *train mean* (undefined: it is the centre, so an
  entry that predicts it is ranked behind all that have values); *half of the cells*, one half of each condition as the
  prediction of the other, which a good model may pass, as it averages over conditions; and *noise-free*, what the true
  effect itself can be expected to reach, which no model passes but by chance. For other panels' headlines the same
  four are computed at the first scoring, where cells allow.
- **What games it.** Of the [attacks](gaming.md) on two baselines and three splits, noise, doubled amplitudes, swapped controls, a
  second log1p and a constant prediction lower it in all six cases. Subtracting the train mean from a prediction raises it in
  four of six, by up to 0.09; no change scores high where the train mean lies far from the test conditions, and the floor
  *control* says how high; conditions that are left out have no value. It does not see amplitudes: `delta.rmse` and the
  calibrated WMSE do.""".split("\n")


def metrics_page() -> str:
    """Return the documentation page of all registered metrics, in Markdown."""
    from perturbfm_core.evaluation.panel import PANELS

    lines = [
        "# Metrics",
        "",
        "Made by `perturbfm metrics list --markdown` from the registry; a test keeps it so. Every metric gives one",
        "value per test condition; perturbations, contexts, strata and the whole split get means of the defined",
        "values, with the number of undefined ones and the reason. A few, such as rank correlations over conditions,",
        "are of several conditions together and have no value of a single one.",
        "",
        "In metrics of the k largest entries and in ranks, ties share the places: the value is the expectation over tie",
        "orders, whatever the order of genes. Only nonzero entries are among the largest; where there are fewer than k, k",
        "is their number, and the value's reason says so. Correlations, R2 and cosines of vectors that are constant up to",
        "rounding are undefined. Metrics without the perturbed genes (`*_no_target`) are `not_applicable` to conditions",
        "none of whose perturbed genes is measured.",
        *_HEADLINE_TEXT,
    ]
    for name, panel in PANELS.items():
        lines += ["", f"## {name}", "", f"Source: {panel.source}. Headline: `{panel.headline}`.", ""]
        lines += ["| metric | better | bounds | needs | version | what it is |", "|---|---|---|---|---|---|"]
        for m in panel.metrics:
            row = _row(m, headline=False)
            text = row["description"].replace("|", "\\|")
            lines.append(
                f"| `{m.name}` | {row['better']} | {row['bounds']} | {m.needs} | {m.version} | {text} |"
            )
    return "\n".join(lines)


@app.command("validate")
def validate(
    preds: PredsOption,
    data: SplitDataOption = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Split (default: every predicted row is tested; then --data is needed)."
        ),
    ] = None,
    reference_json: Annotated[
        Path | None, typer.Option(help="Numbers to compare with, shaped like metrics.json.")
    ] = None,
    reference_script: Annotated[
        str | None, typer.Option(help="Command that runs a script under third_party/ and prints such JSON.")
    ] = None,
    tol: Annotated[float, typer.Option(help="Largest difference that passes, absolute or relative.")] = 1e-6,
    as_json: JsonOption = False,
) -> None:
    """Compute all panels of a prediction and compare them with a reference."""
    from perturbfm_core.data.prediction import read_prediction
    from perturbfm_core.evaluation.reference import compare_json, panels_without_split
    from perturbfm_core.pipeline.dataset import dataset_of, open_dataset
    from perturbfm_core.pipeline.metric_panel import score_prediction
    from perturbfm_core.pipeline.split import stats_with_bounds
    from perturbfm_core.pipeline.submission import read_submission
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    if split is None and data is None:
        msg = "give --split, or --data where every predicted row is tested"
        raise ConfigError(msg)
    with progress() as tell:
        tell("computing all panels")
        if split is None:
            metrics = panels_without_split(open_dataset(str(data)), read_prediction(preds))
        else:
            frozen_split = SplitFolder(home.split_dir).load(split)
            ds = dataset_of(home, frozen_split, data)
            stats = stats_with_bounds(home, ds, frozen_split)
            metrics = score_prediction(
                ds, frozen_split, read_submission(ds, frozen_split, preds).prediction, stats
            ).metrics
        reference = _reference(reference_json, reference_script, tell)
    if reference is None:
        print(dumps(metrics))
        return
    outcome = compare_json(metrics, reference, tol)
    emit(outcome, as_json)
    if outcome["failed"] or outcome["missing"] or not outcome["compared"]:
        odd = [d for d in outcome["differences"] if isinstance(d["expected"], str)]
        no_numbers = f" ({outcome['not_numbers']} are not numbers" if outcome["not_numbers"] else ""
        if no_numbers:
            no_numbers += f": {odd[0]['at']} is {odd[0]['expected']})" if odd else ")"
        msg = (
            f"{outcome['failed']} of {outcome['compared']} numbers differ by more than {tol:g}"
            f"{no_numbers}, {outcome['missing']} of the reference are not computed here"
        )
        raise MetricError(msg)


def _reference(path: Path | None, script: str | None, tell: Any) -> dict[str, Any] | None:
    import subprocess

    if path is not None and script is not None:
        msg = "give --reference-json or --reference-script, not both"
        raise MetricError(msg)
    if path is not None:
        return _parsed(read_text(path, MetricError), str(path))
    if script is None:
        return None
    argv = shlex.split(script)
    root = (store().home / "third_party").resolve()
    if not any(Path(a).exists() and Path(a).resolve().is_relative_to(root) for a in argv):
        msg = f"--reference-script must run a script under {root}; found {script!r}"
        raise MetricError(msg)
    tell("running the reference script")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - the user's own command
    if done.returncode != 0:
        msg = f"reference script exited {done.returncode}: {done.stderr.strip()[-200:]}"
        raise MetricError(msg)
    return _parsed(done.stdout, "the reference script's output")


def _parsed(text: str, source: str) -> dict[str, Any]:
    value = parse_json(text, source, MetricError)
    if not isinstance(value, dict):
        msg = f"{source} must be a JSON object shaped like metrics.json"
        raise MetricError(msg)
    return value


@app.command("probe")
def probe(
    split: SplitOption,
    preds: PredsOption,
    data: SplitDataOption = None,
    panel: Annotated[
        list[str] | None, typer.Option("--panel", help="Only this panel; may be repeated (default: all).")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help="Only this attack; may be repeated (default: all).")
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            min=1,
            help="Draws of the predicted cells whose spread tells improvements from noise; 1 takes every one for real.",
        ),
    ] = 5,
    headlines: Annotated[
        bool, typer.Option("--headlines", help="Only the headline metric of each panel.")
    ] = False,
    improved_only: Annotated[bool, typer.Option("--improved", help="Only what an attack improves.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Apply known attacks to a prediction and show which metrics they improve."""
    from dataclasses import replace

    from perturbfm_core.evaluation.comparison import compare
    from perturbfm_core.evaluation.probes import probe as run_probes
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.pipeline.submission import read_submission
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    ds = dataset_of(home, frozen_split, data)
    with progress() as tell:
        tell("probing")
        # Attacks change means, so cells are drawn of them even where the prediction has its own.
        prediction = replace(read_submission(ds, frozen_split, preds).prediction, cells=None)
        comparison = compare(ds, frozen_split, prediction)
        level = ds.metadata.level
        table = run_probes(comparison, panel, level=level, attacks=attack, draws=draws)
    table = table[table["headline"]] if headlines else table
    emit_table(
        table[table["improved"]] if improved_only else table, as_json, empty="no attack improves a metric"
    )


def parity(
    case: Annotated[Path, typer.Argument(help="Directory of a parity case.")],
    as_json: JsonOption = False,
) -> None:
    """Compare every record of a parity case with the values that the peer's own code gave."""
    import pandas as pd

    from perturbfm_core.evaluation.parity import run_case

    with progress() as tell:
        tell(f"comparing {case.name}")
        outcome = run_case(case)
    if as_json:
        emit(outcome, True)
    else:
        rows = [
            {
                "metric": name,
                **{
                    k: m[k]
                    for k in ("compared", "skipped", "failed", "max_abs_diff", "max_rel_diff", "tolerance")
                },
                "reasons": "; ".join(m["reasons"]) or None,
            }
            for name, m in outcome["metrics"].items()
        ]
        frame = pd.DataFrame(rows)
        for column in ("max_abs_diff", "max_rel_diff") if rows else ():
            frame[column] = frame[column].map(lambda x: f"{x:.2e}")
        emit_table(frame, False, empty=f"{case.name} has no record of a metric")
        emit({k: outcome[k] for k in ("case", "kind", "compared", "skipped", "failed")}, False)
    if outcome["failed"] or not outcome["compared"]:
        first = outcome["failures"][0] if outcome["failures"] else None
        detail = ""
        if first:
            what = first.get("error") or f"{first['got']:g} for {first['expected']:g}"
            detail = f", first {first['metric']} {first['key']}: {what}"
        how = "differ beyond their tolerance"
        how += " or could not be computed" if first and "error" in first else ""
        msg = f"{outcome['failed']} of {outcome['compared']} records {how}{detail}"
        if not outcome["compared"]:
            why = "; ".join(outcome["reasons"]) or "the case has no record"
            msg = f"no record of {case.name} could be compared: {why[:300]}"
        raise MetricError(msg)


app.command("score-pair")(score_pair)

COMMANDS = {"parity": (parity, None)}
