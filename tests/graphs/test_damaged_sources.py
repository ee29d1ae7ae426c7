"""Damaged files of public sources: converted, or refused in one line, whatever was done to them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.errors import PerturbFMError
from perturbfm_core.graphs.sources.conversion import Options
from perturbfm_core.graphs.sources.known import known_source
from tests.support import source_files as made
from tests.support.source_files import written

# {case: (source, {role: (file, text)})}; the first file is the one that is damaged.
CASES = {
    "links": (
        "string",
        {"main": ("links.txt", made.string_links()), "names": ("info.txt", made.string_info())},
    ),
    "links gz": (
        "string",
        {"main": ("links.txt.gz", made.string_links()), "names": ("info.txt", made.string_info())},
    ),
    "info": (
        "string",
        {"names": ("info.txt", made.string_info()), "main": ("links.txt", made.string_links())},
    ),
    "aliases": (
        "string",
        {"names": ("a.txt.gz", made.string_aliases()), "main": ("links.txt", made.string_links())},
    ),
    "annotations": ("go", {"main": ("x.gaf", made.gaf()), "ontology": ("go.obo", made.obo())}),
    "ontology": ("go", {"ontology": ("go.obo", made.obo()), "main": ("x.gaf", made.gaf())}),
    "pathways": ("reactome", {"main": ("p.gmt", made.gmt())}),
    "pathways zip": ("reactome", {"main": ("p.gmt.zip", made.gmt())}),
    "mapping": ("reactome", {"main": ("m.txt", made.reactome_mapping())}),
    "collectri": ("collectri", {"main": ("c.csv", made.collectri())}),
    "omnipath": ("dorothea", {"main": ("o.tsv", made.omnipath())}),
    "trrust": ("trrust", {"main": ("t.tsv", made.trrust())}),
    "own edges": ("file", {"main": ("e.csv", "source,target,weight\nTP53,MDM2,1\nMDM2,ATM,2\n")}),
    "own features": ("file", {"main": ("f.tsv", "gene\ta\tb\nTP53\t1\t2\nMDM2\t3\t4\nATM\t1\t1\n")}),
}
ROUNDS = 25


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return content that was cut, overwritten, repeated, or had bytes put in or taken out."""
    out = bytearray(content)
    at = int(rng.integers(len(out)))
    kind = int(rng.integers(7))
    if kind == 0:
        return bytes(out[:at])
    if kind == 1:
        for i in rng.integers(len(out), size=5):
            out[i] = int(rng.integers(256))
    elif kind == 2:
        out[at : at + int(rng.integers(1, 40))] = b""
    elif kind == 3:
        out[at:at] = rng.choice(
            [b"\t", b"\n", b"\n\n", b'"', b"\0", b"\xff\xfe", b",,,", b"NaN", b"inf", b"!", b"#"]
        )
    elif kind == 4:
        lines = bytes(out).splitlines(keepends=True)
        rng.shuffle(lines)
        return b"".join(lines)
    elif kind == 5:
        out += out[at:]
    else:
        return bytes(out).replace(b"\t", b" ").replace(b",", b";")
    return bytes(out)


@pytest.mark.parametrize("case", CASES)
def test_damaged_files_are_converted_or_refused_in_one_line(tmp_path: Path, case: str):
    source, texts = CASES[case]
    files = {role: written(tmp_path, name, text) for role, (name, text) in texts.items()}
    options = Options(directed=True)
    assert known_source(source).convert(files, options, "x")
    first = files[next(iter(texts))]
    content, rng = first.read_bytes(), np.random.default_rng(len(case))
    refused: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(ROUNDS):
            first.write_bytes(damaged(content, rng))
            try:
                known_source(source).convert(files, options, "x")
            except PerturbFMError as error:
                refused.append(str(error))
    assert refused
    assert not [text for text in refused if "\n" in text or len(text) > 600]
