"""Every fenced block of README and docs: its commands run, its YAML and JSON are read, or it says why not."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

import perturbfm_core as pfm
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.doc_pages import CONTEXTS, GENES, Block, blocks, pages, write_files
from tests.support.few_panels import score_only
from tests.support.paths import REPO

# Pages that have a test of their own, which runs all of them.
ELSEWHERE = {
    "docs/extending.md": "test_extending.py",
    "docs/leaderboard_sql.md": "leaderboard/test_sql_docs.py",
}
# Pages that import the file themselves begin without the data set.
RAW = ("README.md", "docs/vcc2026.md", "docs/datasets.md", "docs/suites.md")
COUNTS = ("docs/vcc2026.md",)
# The panels whose scores a page reads.
PANELS_READ = ("delta", "vcc2026")
SHELL = ("", "sh", "bash", "console")
BLOCKS = {
    str(page.relative_to(REPO)): list(blocks(page))
    for page in pages()
    if str(page.relative_to(REPO)) not in ELSEWHERE
}
RUN = {name: found for name, found in BLOCKS.items() if any(b.why_not is None for b in found)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home with the files, the data set, a split of unseen combinations, and a run of `ridge` on it."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        _enter(place, patch)
        write_files(place)
        columns = ("--pert-col", "condition", "--context-col", "cell_type", "--control-label", "control")
        perturbfm("data", "import", "screen.h5ad", "--out", "data/screen", *columns, warns=True)
        perturbfm("splits", "create", "--data", "screen", "--spec", "combo_ood", "--folds", 3, "--fold", 0)
        split = perturbfm("splits", "list", "--json").json[0]["split_hash"]
        perturbfm("run", "--split", split, "--entry", "ridge")
        perturbfm("leaderboard", "refresh")
    return place


def _enter(place: Path, patch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "PERTURBFM_PLUGINS"):
        patch.delenv(name, raising=False)
    patch.chdir(place)


@pytest.fixture
def home(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a folder as the reader of the page has it."""
    page = request.node.callspec.params["page"]
    place = tmp_path / "home"
    with pytest.MonkeyPatch.context() as patch:
        if page in RAW:
            place.mkdir()
            _enter(place, patch)
            write_files(place, counts=page in COUNTS)
        else:
            shutil.copytree(made, place, symlinks=True)
            _enter(place, patch)
        if page == "docs/graphs.md":
            size = ("--n-obs", 200, "--n-genes", 30, "--n-perts", 4)
            perturbfm("data", "make-synth", "--out", "data/sim_network", "--name", "small_network", *size)
        patch.setattr("webbrowser.open", lambda *_, **__: True)
        patch.setenv("OMP_NUM_THREADS", "1")
        # The workers of a suite are processes of their own, which score by all.
        if page != "docs/suites.md":
            score_only(patch, *PANELS_READ)
        yield place


class Reader:
    """Somebody who follows a page: names that stand for something are replaced by what was made last."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.split = ""
        self.names: dict[str, Any] = {"pfm": pfm, "np": np, "pd": pd}

    def follow(self, block: Block) -> None:
        """Run, or read, one block."""
        if block.language in SHELL:
            for line in block.commands:
                self.run(line, block)
        elif block.language == "python":
            self._python(block)
        elif block.language == "sql":
            for statement in block.text.split(";"):
                if statement.strip():
                    perturbfm("leaderboard", "sql", statement)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language.startswith("yaml"):
            yaml.safe_load(block.text)
            if file := block.language.partition(" file=")[2]:
                self._write(self.home / file, block.text)
        else:
            assert block.language in ("mermaid", "toml"), block

    def run(self, line: str, block: Block) -> None:
        """Run one command of the page in this process; it must succeed."""
        words = [self._meant(w) for w in shlex.split(self._named(line), comments=True)]
        assert words[0] == "perturbfm", f"{block.page}:{block.line}: mark it with <!-- not run: reason -->"
        answer = attempt(*words[1:])
        assert answer.code == 0, f"{block.page}:{block.line}: {line}\n{answer.err}"
        if made := re.search(r"^split_hash=(\w+)", answer.out, re.MULTILINE):
            self.split = made[1]
        if words[1:3] == ["predictions", "template"]:
            self._fill(Path(words[words.index("--out") + 1]))

    def _write(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def _named(self, line: str) -> str:
        """Return a line without the angle brackets that a shell would read."""
        return re.sub(
            r"<(hash|hash or key|run|run_dir|split)>", lambda m: f"@{m[1].replace(' ', '_')}@", line
        )

    def _meant(self, word: str) -> str:
        word = re.sub(
            r"^@(hash|hash_or_key|split)@$|^(HASH|S|SPLIT)$|^[0-9a-f]{12}$", lambda _: self._split(), word
        )
        word = re.sub(r"^D$", "data/screen", word)
        if re.search(r"@run(_dir)?@|^RUN$|^\d{8}-\d{4,6}$", word):
            word = re.sub(r"@run(_dir)?@|^RUN$|^\d{8}-\d{4,6}$", str(ArtifactStore().run_dirs()[-1]), word)
        return word

    def _split(self) -> str:
        if not self.split:
            self.split = str(perturbfm("splits", "list", "--json").json[0]["split_hash"])
        return self.split

    def _fill(self, file: Path) -> None:
        """Fill a template in, as its reader does with a model."""
        table = pd.read_csv(file)
        numbers = [c for c in table.columns if c in GENES]
        table[numbers] = np.random.default_rng(0).normal(0, 0.2, (len(table), len(numbers)))
        table.to_csv(file, index=False)

    def _python(self, block: Block) -> None:
        if "adata" in block.text:
            adata = ad.read_h5ad("screen.h5ad")
            adata.X = np.round(np.expm1(adata.X))
            self.names["adata"] = adata
        if "variance" in block.text:
            from perturbfm_core.pipeline.dataset import open_dataset
            from perturbfm_core.splits.folder import SplitFolder

            ds = open_dataset("data/screen")
            split = SplitFolder(ArtifactStore().split_dir).load(self._split())
            test = sorted(split.definition.folds.table["test"])
            noise = np.random.default_rng(0).normal(0, 0.2, (len(test), ds.n_genes))
            mean = pd.DataFrame(noise, index=test, columns=ds.genes)
            self.names |= {"ds": ds, "split": split, "mean": mean, "variance": mean * 0 + 0.5}
            cells = ad.read_h5ad("screen.h5ad")
            control = np.asarray(cells[cells.obs["condition"] == "control", list(ds.genes)].X.mean(axis=0))
            obs = pd.DataFrame({"condition": test}, index=test)
            predicted = np.maximum(control + noise, 0).astype(np.float32)
            ad.AnnData(predicted, obs=obs, var=pd.DataFrame(index=list(ds.genes))).write_h5ad("mine.h5ad")
        exec(compile(block.text, f"{block.page}:{block.line}", "exec"), self.names)


@pytest.mark.slow
@pytest.mark.parametrize("page", list(RUN))
def test_the_commands_of_a_page_run_in_order(
    page: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = Reader(home)
    for block in RUN[page]:
        if block.why_not is None:
            reader.follow(block)


def test_pages_with_a_test_of_their_own_have_it() -> None:
    for page, test in ELSEWHERE.items():
        assert (REPO / page).is_file()
        assert Path(page).name in (REPO / "tests" / test).read_text()


def test_what_is_not_run_says_why_and_is_little() -> None:
    every = [b for found in BLOCKS.values() for b in found]
    skipped = [b for b in every if b.why_not is not None]
    assert all(len(str(b.why_not).split()) >= 2 for b in skipped)
    assert len(skipped) < len(every) / 2


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("a --b\n", ["a --b"]),
        ("a \\\n   --b c\nd\n", ["a     --b c", "d"]),
        ('q "select\n   x" --json\n', ['q "select x" --json']),
        ("$ a\nprinted=1\n$ b\n", ["a", "b"]),
        ("# a comment\na   # said beside it\n", ["a   # said beside it"]),
    ],
)
def test_commands_of_a_block(text: str, commands: list[str]) -> None:
    assert Block("p", 1, "", text, None).commands == commands


def test_contexts_of_the_files_are_those_that_pages_name() -> None:
    assert "K562" in CONTEXTS
