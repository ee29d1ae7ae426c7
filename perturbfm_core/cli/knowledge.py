"""``perturbfm knowledge``: public sources of gene graphs and features, fetched, converted and registered by one verb."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from perturbfm_core.cli.knowledge_shown import RegisteredName, described, list_, show
from perturbfm_core.cli.output import JsonOption, emit, progress, store
from perturbfm_core.errors import ConfigError, GraphError
from perturbfm_core.graphs.defaults import DIMENSIONS, MAX_TERM

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Register, list, show and remove public sources of gene graphs and features.",
)


@app.command("add")
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="string, go, reactome, collectri, dorothea, omnipath, trrust, hgnc, human-tfs, or file for one of your own.",
        ),
    ],
    main: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE|URL", help="The file itself (default: fetched from its publisher)."
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL", help="A table (id, gene name): STRING's info or aliases, or one of yours."
        ),
    ] = None,
    ontology: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="With --from, go: the ontology (go-basic.obo); hgnc: the groups above groups (hierarchy_closure.csv).",
        ),
    ] = None,
    organism: Annotated[Literal["human", "mouse"], typer.Option(help="Organism of the genes.")] = "human",
    ids: Annotated[
        Literal["symbol", "ensembl"] | None,
        typer.Option(help="Kind of gene names in your data (default: those of the source)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in the catalog (default: SOURCE, or SOURCE-mouse).")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="string: least score of a link, of 1000 (default 700).")
    ] = None,
    confidence: Annotated[
        str | None, typer.Option(help="dorothea: levels of confidence that are kept (default ABC).")
    ] = None,
    aspects: Annotated[
        str | None,
        typer.Option(help="go: P process, F function, C component, as letters (default P)."),
    ] = None,
    directed: Annotated[
        bool | None, typer.Option("--directed/--undirected", help="file: whether its edges have a direction.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help=f"Dimensions of gene features (default {DIMENSIONS}).")
    ] = None,
    max_term: Annotated[
        int | None,
        typer.Option(min=2, help=f"Genes of the largest term or pathway used (default {MAX_TERM})."),
    ] = None,
    sha256: Annotated[str, typer.Option(help="SHA-256 that the file of --from must have.")] = "",
    version: Annotated[
        str | None, typer.Option(help="Version of the file of --from, where it does not say.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the file of --from.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Fetch a source whose terms forbid some uses.")
    ] = False,
    repin: Annotated[
        bool, typer.Option(help="Accept that a file without a published hash has changed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is registered by the name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a public source, convert it, and register it; PerturbFM's entries read what is registered.

    Its licence is shown first. A transfer that is cut off goes on where it stopped, now or when the command is repeated;
    nothing is registered before all files are here, whole and converted.
    """
    from perturbfm_core.graphs.sources.conversion import Options
    from perturbfm_core.graphs.sources.identifiers import ENSEMBL, SYMBOLS
    from perturbfm_core.graphs.sources.known import known_source
    from perturbfm_core.pipeline.source_fetching import Request
    from perturbfm_core.pipeline.source_registering import add_source

    found = known_source(source)
    given: dict[str, Any] = {
        "min_score": min_score,
        "confidence": confidence,
        "aspects": aspects,
        "directed": directed,
        "dim": dim,
        "max_term": max_term,
    }
    given = {k: v for k, v in given.items() if v is not None}
    _check_options(found, given, main, {"ontology": ontology, "version": version, "sha256": sha256 or None})
    if licence is None and (main is None or found.name != "file"):
        print(f"licence of {found.title}: {found.licence}; {found.terms} ({found.home})", file=sys.stderr)
    else:
        print(f"licence of {main}: {licence or 'unknown; see its source'}", file=sys.stderr)
    if found.restricted and main is None and not accept_licence:
        msg = f"{found.title} is fetched when its terms are accepted; repeat with --accept-licence if they fit your use"
        raise GraphError(msg)
    places = {"main": main, "names": names, "ontology": ontology}
    request = Request(
        source=found,
        options=Options(
            organism=organism,
            ids=None if ids is None else {"symbol": SYMBOLS, "ensembl": ENSEMBL}[ids],
            given=tuple(given),
            **given,
        ),
        name=name,
        places={role: place for role, place in places.items() if place is not None},
        sha256=sha256,
        version=version,
        licence=licence,
        force=force,
        repin=repin,
    )
    with progress(silent=as_json) as tell:
        entries = add_source(store(), request, tell)
    emit(described(entries), as_json)


def _check_options(found: Any, given: dict[str, Any], main: str | None, others: dict[str, Any]) -> None:
    if found.name == "file" and main is None:
        msg = "a file of your own is given with --from FILE or --from URL"
        raise ConfigError(msg)
    takes = found.options
    useless = [f"--{k.replace('_', '-')}" for k in given if k not in takes]
    if others["ontology"] is not None and not found.has_ontology:
        useless.append("--ontology")
    if useless:
        known = ", ".join(f"--{k.replace('_', '-')}" for k in sorted(takes)) or "none of these options"
        msg = f"{', '.join(useless)} has no use with {found.name}; it takes {known}"
        raise ConfigError(msg)
    lacking = [f"--{k}" for k in ("version", "sha256") if others[k] is not None]
    if main is None and lacking:
        msg = f"{', '.join(lacking)} describes a file that is given; it goes with --from"
        raise ConfigError(msg)


app.command("list")(list_)
app.command("show")(show)


@app.command("remove")
def remove(name: RegisteredName, as_json: JsonOption = False) -> None:
    """Remove a registered source; fetched files stay under downloads, and runs that read it stay."""
    from perturbfm_core.pipeline.source_catalog import remove_source

    emit({"removed": name, "files": [str(path) for path in remove_source(store(), name)]}, as_json)
