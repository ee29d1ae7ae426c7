"""``perturbfm predict, suggest``: ask a run about conditions, and what to measure next."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from perturbfm_core.cli.output import (
    JsonOption,
    SplitDataOption,
    SplitOption,
    emit,
    emit_table,
    progress,
    store,
)
from perturbfm_core.errors import ConfigError
from perturbfm_core.store.atomic import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

RunOption = Annotated[str, typer.Option("--run", help="Run directory, id or prefix of the id.")]
_NUMBERS = ("mean", "sd", "lower", "upper", "epistemic_share")
_SHOWN = ("trust", "nearest", "nearest_similarity", "effect_size", "intervals")


def _long_schema() -> pa.Schema:
    """Return one schema for all blocks: of itself, a shorter one would have narrower codes."""
    import pyarrow as pa

    name = pa.dictionary(pa.int32(), pa.string())
    numbers = ((n, pa.float32()) for n in _NUMBERS)
    return pa.schema([("condition", name), ("gene", name), *numbers, ("verdict", name)])


def predict(
    split: SplitOption,
    run: RunOption,
    perturbation: Annotated[
        str | None, typer.Option("--perturbation", help="Gene, or genes joined by '+'.")
    ] = None,
    context: Annotated[str | None, typer.Option("--context", help="A context of the data set.")] = None,
    modality: Annotated[
        str | None, typer.Option("--modality", help="Default: that of train, if it has one.")
    ] = None,
    doses: Annotated[
        str | None, typer.Option("--doses", help="Dose of each part, joined by '+'; or one for all.")
    ] = None,
    covariates: Annotated[
        str | None, typer.Option("--covariates", help="NAME=VALUE pairs joined by ';', or JSON.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many genes to print.")] = 20,
    level: Annotated[float, typer.Option("--level", help="Nominal coverage of the intervals.")] = 0.9,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch",
            help="CSV, TSV or parquet: perturbation, context and others, by column or option; needs --out.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Parquet file to write, with --batch.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    data: SplitDataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict conditions with a run's model: genes of largest change, intervals, and whether to trust them."""
    from perturbfm_core.screening.fitted_run import open_run
    from perturbfm_core.screening.predictions import predict_requests
    from perturbfm_core.screening.requests import Request, resolve_requests

    if (batch is None) == (perturbation is None):
        msg = (
            "give one condition by --perturbation and --context, or a list of them by --batch FILE --out FILE"
        )
        raise ConfigError(msg)
    if batch is not None:
        given = {"context": context, "modality": modality, "doses": doses, "covariates": covariates}
        _predict_batch(split, run, batch, out, given, level, data, force=force, as_json=as_json)
        return
    if context is None or perturbation is None or out is not None:
        missing = "--out serves --batch only" if context is not None else "--perturbation needs --context"
        msg = f"{missing}; give --perturbation A+B --context C"
        raise ConfigError(msg)
    opened = open_run(store(), split, run, data)
    asked = resolve_requests(opened, [Request(perturbation, context, modality, doses, covariates)])
    predictions = predict_requests(opened, asked, level)
    summary, genes = predictions.summary(0), predictions.top(0, top)
    if as_json:
        records = genes.astype(object).where(genes.notna(), None).to_dict(orient="records")
        emit({"run_id": opened.id, "split_hash": opened.split.hash, **summary, "genes": records}, True)
        return
    emit({"condition": summary["condition"], "run_id": opened.id, "verdict": summary["verdict"]}, False)
    for note in summary["notes"]:
        emit({"note": note}, False)
    evidence = summary["evidence"]
    emit(
        {
            **{k: summary[k] for k in _SHOWN},
            "novelty": evidence["novelty"],
            "epistemic_share": evidence["epistemic"],
            "train_epistemic_share": evidence["train_epistemic"],
            "level": level,
        },
        False,
    )
    emit_table(genes, False)


def _predict_batch(
    split: str,
    run: str,
    batch: Path,
    out: Path | None,
    given: dict[str, str | None],
    level: float,
    data: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from perturbfm_core.screening.fitted_run import open_run
    from perturbfm_core.screening.predictions import predict_blocks
    from perturbfm_core.screening.requests import read_requests, resolve_requests

    if out is None or out.suffix.lower() != ".parquet":
        msg = f"--batch needs --out FILE.parquet, found {str(out) if out else 'none'!r}"
        raise ConfigError(msg)
    if out.exists() and not force:
        msg = f"{out} already exists; choose another --out, or give --force to replace it"
        raise ConfigError(msg)
    asked = read_requests(batch, given)
    opened = open_run(store(), split, run, data)
    trust: Counter[str] = Counter()
    notes: list[str] = []
    buffer, n_conditions, method = io.BytesIO(), 0, ""
    with progress(silent=as_json) as tell:
        tell("predicting")
        writer: pq.ParquetWriter | None = None
        for predictions in predict_blocks(opened, resolve_requests(opened, asked), level):
            table = pa.Table.from_pandas(predictions.long(), schema=_long_schema(), preserve_index=False)
            writer = writer or pq.ParquetWriter(buffer, table.schema)
            writer.write_table(table)
            trust.update(v.trust for v in predictions.verdicts)
            notes.extend(note for several in predictions.notes for note in several)
            n_conditions, method = n_conditions + len(predictions), predictions.method
        if writer is not None:
            writer.close()
        write_atomic(out, buffer.getvalue())
    n_genes = len(opened.ds.genes)
    emit(
        {
            "out": str(out),
            "run_id": opened.id,
            "conditions": n_conditions,
            "genes": n_genes,
            "rows": n_conditions * n_genes,
            "level": level,
            "intervals": method,
            **{f"trust_{name}": trust.get(name, 0) for name in ("high", "fair", "low")},
            "notes": list(dict.fromkeys(notes)),
        },
        as_json,
    )


def suggest(
    split: SplitOption,
    run: RunOption,
    k: Annotated[int, typer.Option("--k", min=1, help="How many to suggest.")] = 10,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="Where (repeatable; default: every one of train, or of the file)."),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(
            "--candidates",
            help="CSV, TSV or parquet of conditions; what train has is left out (default: untested pairs and singles).",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="entropy or variance (default: entropy where the model allows it)."),
    ] = None,
    diversity: Annotated[
        float | None,
        typer.Option("--diversity", min=0.0, max=1.0, help="Of variance: 0 to 1 (default: 0.5)."),
    ] = None,
    data: SplitDataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Suggest the untested perturbations that would tell a run's model most, not all the same."""
    from perturbfm_core.screening.fitted_run import open_run
    from perturbfm_core.screening.requests import read_requests
    from perturbfm_core.screening.suggestions import Method
    from perturbfm_core.screening.suggestions import suggest as suggest_conditions

    chosen: Method | None = None
    if method is not None:
        if method not in get_args(Method):
            msg = f"unknown --method {method!r}; known: {', '.join(get_args(Method))}"
            raise ConfigError(msg)
        chosen = "entropy" if method == "entropy" else "variance"
    contexts = list(context or [])
    listed = (
        []
        if candidates is None
        else read_requests(
            candidates, {"context": contexts[0] if len(contexts) == 1 else None}, filtered=True
        )
    )
    opened = open_run(store(), split, run, data)
    found = suggest_conditions(
        opened, k, contexts=contexts, candidates=listed, method=chosen, diversity=diversity
    )
    head = {
        "run_id": opened.id,
        "method": found.method,
        "information_unit": found.unit,
        "candidates": found.n_candidates,
        "possible": found.n_possible,
        "notes": list(found.notes),
    }
    if as_json:
        emit({**head, "suggestions": found.table.to_dict(orient="records")}, True)
        return
    emit(head, False)
    emit_table(found.table, False, empty="every candidate is in the train data")


COMMANDS = {"predict": (predict, None), "suggest": (suggest, None)}
