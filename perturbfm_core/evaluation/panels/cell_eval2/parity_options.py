"""Options of a run of cell-eval2 that a parity case keeps, and the target genes that they declare."""

from __future__ import annotations

from collections.abc import Iterable

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2.targets import ANY
from perturbfm_core.parsing import parse_yaml

_VALUED = ("--profile", "--preset", "--input-type", "--metrics", "--pert-col", "--control", "--version")
_SWITCHES = ("--no-target-genes",)
_TARGETS = "--set target_gene_map"
# Options, and fields of ``--set``, that say where and how the peer computes, not what.
_HOW = (
    "-o",
    "--outdir",
    "--cache-real",
    "--cache-pred",
    "--cache-strict",
    "--no-cache-strict",
    "--write-degenes",
)
_HOW_SET = ("de.backend", "device", "num_threads", "gather_threads", "pert_chunk", "cache_strict")
# Fields of ``--set`` that an option of another name sets too.
_FIELDS = {
    "metrics": "--profile",
    "input_type": "--input-type",
    "version": "--version",
    "pert_col": "--pert-col",
    "control": "--control",
}
_PRESETS = ("v2", "vcc2026")


def read_options(args: Iterable[str]) -> tuple[dict[str, str], dict[str, str | None] | None]:
    """Return ({option: its value}, {label: its target gene} or None where none is declared).

    Raises
    ------
    MetricError
        If an option or its value is not known here.
    """
    options = _by_name(args)
    unknown = [o for o in options if o not in (*_VALUED, *_SWITCHES, *_HOW, _TARGETS)]
    unknown += [
        f"{o} {options[o]}" for o in ("--preset", "--version") if options.get(o, "v2") not in _PRESETS
    ]
    if unknown:
        msg = f"no option {unknown[0]} here"
        raise MetricError(msg)
    given = _value(_TARGETS, options.get(_TARGETS, "")) or {}
    if not isinstance(given, dict):
        msg = f"{_TARGETS} is no table of labels and genes"
        raise MetricError(msg)
    targets = {str(label): None if gene is None else str(gene) for label, gene in given.items()}
    if "--no-target-genes" in options:
        targets[ANY] = None
    return options, targets or None


def _value(option: str, text: str) -> object:
    return parse_yaml(text, option, MetricError) if text else None


def _by_name(args: Iterable[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    last = ""
    for arg in args:
        if arg == "--set":
            last = arg
        elif last == "--set":
            name, _, value = arg.partition("=")
            if name in _FIELDS:
                out[_FIELDS[name]] = str(_value(f"--set {name}", value))
            elif name not in _HOW_SET:
                out[f"--set {name}"] = value
            last = ""
        elif arg.startswith("-"):
            last, _, value = arg.partition("=")
            out[last] = value
        elif last:
            out[last] = arg
    return out
