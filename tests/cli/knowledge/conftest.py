"""Public files of every source, as a user has fetched them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import source_files as made
from tests.support.source_files import written


@pytest.fixture
def files(tmp_path) -> Path:
    """Make the public files as a user has fetched them."""
    folder = tmp_path / "files"
    folder.mkdir()
    written(folder, "9606.protein.links.v12.0.txt.gz", made.string_links())
    written(folder, "9606.protein.info.v12.0.txt.gz", made.string_info())
    written(folder, "goa_human.gaf.gz", made.gaf())
    written(folder, "go-basic.obo", made.obo())
    written(folder, "ReactomePathways.gmt.zip", made.gmt())
    written(folder, "CollecTRI_regulons.csv", made.collectri())
    written(folder, "DatabaseExtract_v_1.01.csv", made.factors())
    written(folder, "hgnc_complete_set.txt", made.gene_groups())
    written(folder, "hierarchy_closure.csv", made.group_hierarchy())
    written(folder, "dorothea.tsv", made.omnipath())
    return folder
