"""Table of the public sources: what each gives, its files by organism, licence, terms and citation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.sources.conversion import (
    MAIN,
    NAMES,
    ONTOLOGY,
    Converted,
    Options,
    from_protein_links,
    from_regulation,
    from_terms,
)
from perturbfm_core.graphs.sources.factors import from_factors
from perturbfm_core.graphs.sources.gene_groups import from_gene_groups
from perturbfm_core.graphs.sources.identifiers import ENSEMBL
from perturbfm_core.graphs.sources.own import from_own_file

Convert = Callable[[Mapping[str, Path], Options, str], Converted]
OWN = "file"


@dataclass(frozen=True)
class KnownSource:
    """One public source.

    Attributes
    ----------
    name, title
        The word on the command line, and what it is called.
    what
        What its files hold.
    gives
        ``graph``, ``features`` or both.
    licence, terms
        Its licence, and what that asks for in one line.
    citation, home
        What to cite, and where its terms are found.
    convert
        Makes graph and features of its files.
    files
        {organism: {role: name in the registry of public files}}.
    ensembl_files
        The same where Ensembl ids are wanted and other files have them.
    options
        Names of the fields of `Options` that it reads, beside organism and ids; one file may read fewer.
    size
        How much is fetched, roughly.
    version
        Version of the files that the registry names, "" where they are the newest ones.
    restricted
        Whether parts of it forbid some uses, so that fetching it takes consent.
    complete
        Whether it lists every gene of its kind, so that a gene that it lacks is of another kind.
    """

    name: str
    title: str
    what: str
    gives: tuple[str, ...]
    licence: str
    terms: str
    citation: str
    home: str
    convert: Convert
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ensembl_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    size: str = ""
    version: str = ""
    restricted: bool = False
    complete: bool = False

    @property
    def has_ontology(self) -> bool:
        """Whether it has a file of what is above what."""
        return any(ONTOLOGY in files for files in self.files.values())

    def files_of(self, organism: str, ids: str | None) -> Mapping[str, str]:
        """Return {role: name in the registry} for an organism and kind of gene names.

        Raises
        ------
        GraphError
            If the registry has no file of that organism.
        """
        chosen = {**self.files, **self.ensembl_files} if ids == ENSEMBL else self.files
        if organism not in chosen:
            known = ", ".join(sorted({*self.files, *self.ensembl_files})) or "none"
            more = " (with --ids ensembl)" if organism in self.ensembl_files else ""
            msg = (
                f"no public file of {self.name} for {organism} is known{more or f' (known: {known})'}; "
                f"{'add that option, or ' if more else ''}give the file with --from FILE or --from URL"
            )
            raise GraphError(msg)
        return chosen[organism]


_CC_BY = "use and share with attribution"
_OMNIPATH = "each resource behind it has terms of its own, some for academic use only: see the source before any other use"

SOURCES: dict[str, KnownSource] = {
    s.name: s
    for s in (
        KnownSource(
            name="string",
            title="STRING",
            what="scored protein interactions",
            gives=("graph", "features"),
            licence="CC BY 4.0",
            terms=_CC_BY,
            citation="Szklarczyk et al. 2023 Nucleic Acids Res 10.1093/nar/gkac1000",
            home="https://string-db.org/cgi/access",
            convert=from_protein_links,
            files={o: {MAIN: f"string/{o}_links", NAMES: f"string/{o}_info"} for o in ("human", "mouse")},
            ensembl_files={
                o: {MAIN: f"string/{o}_links", NAMES: f"string/{o}_aliases"} for o in ("human", "mouse")
            },
            options=("min_score", "dim"),
            size="about 80 MB",
            version="12.0",
        ),
        KnownSource(
            name="go",
            title="Gene Ontology",
            what="annotations of genes with terms and all of their ancestors",
            gives=("features",),
            licence="CC BY 4.0",
            terms=_CC_BY + ", stating the release",
            citation="The Gene Ontology Consortium 2023 Genetics 10.1093/genetics/iyad031",
            home="https://geneontology.org/docs/go-citation-policy/",
            convert=from_terms,
            files={o: {MAIN: f"go/{o}_annotations", ONTOLOGY: "go/ontology"} for o in ("human", "mouse")},
            options=("aspects", "dim", "max_term"),
            size="about 50 MB",
        ),
        KnownSource(
            name="reactome",
            title="Reactome",
            what="genes of pathways",
            gives=("features",),
            licence="CC0 1.0",
            terms="the annotation and mapping files are public domain; cite Reactome all the same",
            citation="Milacic et al. 2024 Nucleic Acids Res 10.1093/nar/gkad1025",
            home="https://reactome.org/license",
            convert=from_terms,
            files={"human": {MAIN: "reactome/human_pathways"}},
            ensembl_files={o: {MAIN: "reactome/ensembl_pathways"} for o in ("human", "mouse")},
            options=("dim", "max_term"),
            size="under 1 MB (by Ensembl ids over 100 MB)",
        ),
        KnownSource(
            name="collectri",
            title="CollecTRI",
            what="signed edges from transcription factors to targets",
            gives=("graph",),
            licence="CC BY 4.0",
            terms=_CC_BY,
            citation="Müller-Dott et al. 2023 Nucleic Acids Res 10.1093/nar/gkad841",
            home="https://zenodo.org/records/8192729",
            convert=from_regulation,
            files={"human": {MAIN: "collectri/human"}},
            size="4 MB",
            version="2.0",
        ),
        KnownSource(
            name="dorothea",
            title="DoRothEA",
            what="signed edges from transcription factors to targets, in levels of confidence",
            gives=("graph",),
            licence="mixed (R package GPL-3; data by resource)",
            terms=_OMNIPATH,
            citation="Garcia-Alonso et al. 2019 Genome Res 10.1101/gr.240663.118",
            home="https://saezlab.github.io/dorothea",
            convert=from_regulation,
            files={o: {MAIN: f"dorothea/{o}"} for o in ("human", "mouse")},
            options=("confidence",),
            size="tens of MB",
            restricted=True,
        ),
        KnownSource(
            name="omnipath",
            title="OmniPath",
            what="signed, directed interactions of signalling",
            gives=("graph",),
            licence="mixed (by resource)",
            terms=_OMNIPATH,
            citation="Türei et al. 2021 Mol Syst Biol 10.15252/msb.20209923",
            home="https://omnipathdb.org",
            convert=from_regulation,
            files={o: {MAIN: f"omnipath/{o}"} for o in ("human", "mouse")},
            size="about 10 MB",
            restricted=True,
        ),
        KnownSource(
            name="trrust",
            title="TRRUST",
            what="signed edges from transcription factors to targets, from the literature",
            gives=("graph",),
            licence="CC BY-SA 4.0",
            terms="use with attribution, share what is derived under the same licence; see the source",
            citation="Han et al. 2018 Nucleic Acids Res 10.1093/nar/gkx1013",
            home="https://www.grnpedia.org/trrust",
            convert=from_regulation,
            files={o: {MAIN: f"trrust/{o}"} for o in ("human", "mouse")},
            size="under 1 MB",
            version="2",
        ),
        KnownSource(
            name="hgnc",
            title="HGNC",
            what="groups of genes: families, complexes, shared domains, with the groups above them",
            gives=("features",),
            licence="CC0 1.0",
            terms="public domain; cite the HGNC all the same",
            citation="Gray et al. 2016 Hum Genomics 10.1186/s40246-016-0062-6",
            home="https://www.genenames.org/about/license/",
            convert=from_gene_groups,
            files={"human": {MAIN: "hgnc/complete_set", ONTOLOGY: "hgnc/group_hierarchy"}},
            size="17 MB",
        ),
        KnownSource(
            name="human-tfs",
            title="The Human Transcription Factors",
            what="transcription factors and the families of their DNA-binding domains",
            gives=("features",),
            licence="unknown (see the source)",
            terms="no licence is stated; see the source before any other use than research",
            citation="Lambert et al. 2018 Cell 10.1016/j.cell.2018.01.029",
            home="https://humantfs.ccbr.utoronto.ca",
            convert=from_factors,
            files={"human": {MAIN: "human-tfs/human"}},
            size="2 MB",
            version="1.01",
            complete=True,
        ),
        KnownSource(
            name=OWN,
            title="a file of your own",
            what="gene features, gene sets, or edges between genes",
            gives=("graph", "features"),
            licence="unknown",
            terms="see the source",
            citation="",
            home="",
            convert=from_own_file,
            options=("directed", "dim", "max_term"),
        ),
    )
}


def known_source(name: str) -> KnownSource:
    """Return a source by its word.

    Raises
    ------
    GraphError
        If there is none of that name.
    """
    if name not in SOURCES:
        msg = f"unknown source {name!r}; known: {', '.join(SOURCES)}"
        raise GraphError(msg)
    return SOURCES[name]
