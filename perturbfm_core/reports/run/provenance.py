"""Warnings that a reader must see before trusting the numbers of a run, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perturbfm_core.reports.html import DASH, number
from perturbfm_core.store.run_record import RunRecord


def flags_of(record: RunRecord, *, no_signal: bool) -> list[str]:
    """Return warnings that the reader must know before trusting the numbers.

    Parameters
    ----------
    record
        The run.
    no_signal
        Whether the data of its split have no signal.
    """
    out = []
    if no_signal:
        out.append(
            "no_signal: two halves of the same condition hardly agree here; these numbers rank nothing."
        )
    if record.flags.shared_control:
        out.append(
            "shared_control: too few control cells to keep those that models see apart from those the truth subtracts; "
            "correlations are inflated."
        )
    if record.alignment != "by_name":
        out.append("The prediction has no row or gene names: it was aligned by position, unverified.")
    if record.var_filled:
        out.append("The prediction came without variance: the uncertainty panel does not apply.")
    own = record.notes.get("own_cells")
    if own:
        out.append(
            f"The prediction has cells of its own for {own['conditions']} conditions; scored on them: {', '.join(own['panels'])}."
        )
    out += [f"Prediction: {text}." for text in record.notes.get("warnings", [])]
    tuned = record.tuned
    if tuned and tuned["data_content_sha256"] == record.data_hash and tuned["split"] != record.split_hash:
        out.append(
            f"tuned: the parameters were selected on the validation of another split of this data, {tuned['split'][:12]}; "
            "conditions that it validated on may be tested here."
        )
    out += [f"Audit: {w['name']}: {w['message']}" for w in record.audit]
    return out


def audit_rows(record: RunRecord) -> list[list[str]]:
    """Return the findings of the leakage audit as rows of a table: check, severity, count, finding, examples."""
    return [
        [
            str(w.get("name", "")),
            str(w.get("severity", "warning")),
            str(w.get("count", "")),
            str(w.get("message", "")),
            ", ".join(str(x) for x in w.get("examples") or ()),
        ]
        for w in record.audit
    ]


def _source(source: dict[str, Any]) -> str:
    """Return a public source in words: what was read of it, and how many perturbed genes it has."""
    return (
        f"{source.get('source')} {source.get('version')} ({source.get('what')} {source.get('name')!r}, {source.get('licence')}; "
        f"{source.get('found')} of {source.get('perturbed')} perturbed genes)"
    )


def provenance(record: RunRecord, metrics: Mapping[str, Any] | None = None) -> list[list[str]]:
    """Return the inputs, code and environment of the run, as rows of a table.

    Parameters
    ----------
    record
        The run.
    metrics
        Content of its ``metrics.json``, which says how counts of point predictions were drawn.
    """
    environment = record.environment
    code = ", ".join(f"{stage} {digest[:12]}" for stage, digest in record.code.items())
    side = [
        f"{kind} {name} {digest[:12]}" for kind, of in record.side_info.items() for name, digest in of.items()
    ]
    made, machine = record.submission, environment.get("machine", "")
    rows: list[list[Any]] = [
        ["run", record.run_id],
        ["model", f"{record.model} ({record.family})"],
        ["parameters", ", ".join(f"{k}={v}" for k, v in record.params.items()) or "none"],
        *_tuned(record.tuned),
        ["seed", record.seed],
        *_generated(record.generator, metrics),
        *(
            []
            if made is None
            else [
                ["file", f"{made.file} {made.sha256}"],
                ["note", made.note or DASH],
                ["address", made.url or DASH],
            ]
        ),
        ["data set", f"{record.dataset.name} {record.data_hash}"],
        ["licence of the data", record.dataset.licence or "not recorded"],
        ["split", f"{record.split.key} {record.split_hash}"],
        ["config", record.config_hash],
        ["side information", ", ".join(side) or "none"],
        *([["public sources", ", ".join(_source(s) for s in record.sources)]] if record.sources else []),
        ["replaces run", record.parent_run or DASH],
        ["code", f"{environment.get('perturbfm', '')} {environment.get('git_commit') or ''} {code}"],
        ["plug-ins", ", ".join(f"{k} {v[:12]}" for k, v in record.plugins.items()) or "none"],
        [
            "machine",
            f"{machine} {environment.get('cpus', '')} cpus, python {environment.get('python', DASH)}".strip(),
        ],
        ["threads", environment.get("threads", DASH)],
        ["libraries", ", ".join(f"{k} {v}" for k, v in environment.get("libraries", {}).items())],
        ["seconds", ", ".join(f"{k} {number(v, 2)}" for k, v in record.timings.items())],
    ]
    return [[str(a), str(b)] for a, b in rows]


def _generated(generator: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None) -> list[list[str]]:
    """Return how predicted cells and counts were made, as rows of a table; none where the prediction has its own."""
    panel = (metrics or {}).get("vcc2026")
    drawn = panel.get("counts_of_point_predictions") if isinstance(panel, Mapping) else None
    rows = []
    if generator:
        noise = "with" if generator.get("residual_noise") else "without"
        made = f"{generator.get('name', DASH)} {noise} residual noise, seed {generator.get('seed', DASH)}"
        rows.append(["generator of cells", made])
    if isinstance(drawn, Mapping):
        made = f"{drawn.get('generator', DASH)} {drawn.get('version') or ''}".strip()
        rows.append(["generator of counts", f"{made}, seed {drawn.get('seed', DASH)}"])
    return rows


def _tuned(tuned: dict[str, Any] | None) -> list[list[str]]:
    """Return the origin of tuned parameters, as rows of a table; none where they are the entry's own."""
    if not tuned:
        return []
    which = "the entry's own, kept" if tuned["trial"] is None else f"trial {tuned['trial']}"
    text = (
        f"{which} of study {tuned['study']}, {tuned['trials']} trials on split {tuned['split'][:12]}, "
        f"validation {number(tuned['value'])}"
    )
    return [["parameters from", text]]
