"""The page on suites, executed as it is written, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import VARIABLES, Answer, attempt
from tests.support.few_panels import brief
from tests.support.paths import REPO

PAGE = (REPO / "docs/suites.md").read_text()
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Answer]]:
    """Follow the page with three panels and in one process; return the folder, and what every command printed."""
    place = tmp_path_factory.mktemp("empty")
    out: dict[str, Answer] = {}
    with pytest.MonkeyPatch.context() as patch, brief("delta", "perturbench"):
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(place)
        for language, file, text in FENCE.findall(PAGE):
            if file:
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                (place / file).write_text(text)
            elif language == "sh":
                for line in text.strip().splitlines():
                    program, *words = shlex.split(line)
                    assert program == "perturbfm"
                    # Workers would score all panels.
                    words = [
                        "1" if before == "--jobs" else w
                        for before, w in zip(["", *words], words, strict=False)
                    ]
                    if "SPLIT" in words:
                        index = json.loads((place / "splits/index.json").read_text())["splits"]
                        split = next(e["hash"] for e in index if e["kind"] == "perturbation_ood")
                        words = [split if w == "SPLIT" else w for w in words]
                    out[line] = attempt(*words)
    return place, out


def test_every_command_of_the_page_succeeds(printed):
    assert {line: answer.err for line, answer in printed[1].items() if answer.code != 0} == {}
    assert len(printed[1]) >= 12


def test_what_the_page_says_comes_true(printed, monkeypatch):
    place, out = printed
    assert out["perturbfm suite run ours --dry-run"].values["missing"] == "9"
    assert out["perturbfm suite run ours --only entry=ridge,split=context_ood"].values["made"] == "1"
    assert out["perturbfm suite run ours --jobs 2"].values["found"] == "1"
    assert out["perturbfm suite status ours"].values["done"] == "9"
    assert out["perturbfm run --split screen.perturbation_ood --entry ridge"].out.count("existing=true") == 2
    card = json.loads((place / "card/scorecard.json").read_text())
    assert card["entries"][0]["entry"] == "ridge"
    assert set(card["entries"][0]["panels"]) == {"perturbench.cosine_logfc"}
    assert out["perturbfm sweep show first"].values["revealed"] == "2"
    assert out["perturbfm rescore --all"].values["refused"] == "0"
    monkeypatch.chdir(place)
    assert len(ArtifactStore().run_dirs()) == 11
