"""What the web UI shows of the code location without running anything."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.store.artifacts import ArtifactStore
from tests.assets.conftest import REPO
from tests.support.asset_runs import CONTEXT, INDEX


def test_split_keys_are_said_in_words(here):
    text = (
        here.module("definitions")
        .defs.resolve_asset_graph()
        .get(dg.AssetKey("split"))
        .metadata["splits"]
        .value
    )
    for entry in json.loads((REPO / "splits/index.json").read_text())["splits"]:
        (line,) = [x for x in text.splitlines() if entry["key"] in x]
        assert line.endswith(f"| {entry['dataset']} | {entry['kind']} |")
    (context,) = [x for x in text.splitlines() if "demo.context_ood" in x]
    assert "| context C0 | - |" in context
    (combo,) = [x for x in text.splitlines() if "demo.combo_ood" in x]
    assert "6 combinations: G000+G230" in combo
    assert "| 0 of 4 (from 0) |" in combo


def test_cells_that_cannot_exist_are_seen_without_running(here, monkeypatch):
    readable = here.module("readable")
    shown = here.module("definitions").defs.resolve_asset_graph().get(dg.AssetKey("report")).metadata
    assert shown["not_applicable"].value == readable.not_applicable_table().value
    monkeypatch.setattr(MODELS.get("global_mean"), "requires", Requires(min_contexts=9))
    monkeypatch.setattr(MODELS.get("additive"), "requires", Requires(min_contexts=2))
    lines = readable.not_applicable_table().value.splitlines()
    every = " ".join(x for x in lines if x.startswith("| global_mean |"))
    assert all(e["key"] in every for e in INDEX)
    assert "needs 9 train contexts" in every
    some = " ".join(x for x in lines if x.startswith("| additive |"))
    for entry in INDEX:
        assert (entry["key"] in some) == (entry["traits"]["train_contexts"] < 2)


def test_an_entry_that_cannot_be_read_leaves_the_grid_alone(here, monkeypatch):
    readable = here.module("readable")
    wrong = readable.CATALOG.model("ridge").model_copy(update={"params": {"alphaz": 3}})
    monkeypatch.setitem(readable.CATALOG.models, "ridge", wrong)
    (line,) = [x for x in readable.not_applicable_table().value.splitlines() if x.startswith("| ridge |")]
    assert "| all splits | is no valid entry: parameters of model 'ridge'" in line
    assert "alphaz" in line


def test_pages_are_linked_over_http(here, monkeypatch):
    links, home = here.module("links"), ArtifactStore()
    page = home.runs / "run 1" / "report.html"
    assert links.page_url(home, page) == f"{links.DEFAULT}/runs/run%201/report.html"
    monkeypatch.setenv("PERTURBFM_SERVE_URL", "http://127.0.0.1:9/")
    assert links.page_url(home, home.leaderboard_page).startswith("http://127.0.0.1:9/runs/")


@pytest.mark.parametrize("linked", ["runs", "run", "home", "nothing"])
@pytest.mark.parametrize("resolved", [False, True])
def test_pages_are_linked_where_a_folder_lies_on_another_disk(here, tmp_path, linked, resolved):
    links, disk, root = here.module("links"), tmp_path / "disk", tmp_path / "home"
    (disk / "run 1").mkdir(parents=True)
    (disk / "run 1/report.html").write_text("")
    if linked == "home":
        (tmp_path / "real").mkdir()
        root.symlink_to(tmp_path / "real")
    root.mkdir(exist_ok=True)
    if linked == "runs":
        (root / "runs").symlink_to(disk)
    else:
        (root / "runs").mkdir()
        if linked == "run":
            (root / "runs/run 1").symlink_to(disk / "run 1")
        else:
            (root / "runs/run 1").mkdir()
    store = ArtifactStore(root)
    page = store.runs / "run 1/report.html"
    if resolved and linked != "run":
        page = page.resolve()
    assert links.page_url(store, page).endswith("/runs/run%201/report.html")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, 0.1235),
        ({"a": [1.00004, 3]}, {"a": [1.0, 3]}),
        (0.0000123456, 1.235e-05),
        (True, True),
        ("x", "x"),
    ],
)
def test_values_of_metadata_are_rounded(here, value, shown):
    assert here.module("show").rounded(value) == shown


@pytest.mark.parametrize(
    "key", ["ridge", "", "|", "ridge|", "nope|SPLIT", "ridge|nope", "SPLIT|ridge", "ridge|SPLIT|more"]
)
def test_keys_that_are_no_cell(here, key):
    with pytest.raises(dg.Failure, match=r"is no partition of the grid; a key reads model\|split"):
        here.module("partitions").names_of(key.replace("SPLIT", CONTEXT["key"]))


@pytest.mark.parametrize("lacking", [{"split": "demo.context_ood.000000000000"}, {"model": "gone"}])
def test_a_cell_that_was_removed_while_it_waited_says_so(here, lacking):
    """A queued run has the tags of its dimensions, and the location was loaded anew before it began."""
    partitions = here.module("partitions")
    (name,) = lacking.values()
    key = partitions.grid_key(**{"model": "ridge", "split": CONTEXT["key"], **lacking})
    with pytest.raises(dg.Failure, match=f"is no partition of the grid; .* '{name}' is not among them"):
        partitions.names_of(key)


def test_a_split_that_was_removed_while_it_waited_says_so(here):
    partitions = here.module("partitions")
    assert partitions.split_of(CONTEXT["key"]).hash == CONTEXT["hash"]
    with pytest.raises(dg.Failure, match="'gone' is no split of the grid; `perturbfm splits list` shows"):
        partitions.split_of("gone")


def test_keys_of_cells_as_launchers_send_them(here):
    partitions = here.module("partitions")
    wanted = ("ridge", CONTEXT["key"])
    assert partitions.names_of(partitions.grid_key(*wanted)) == wanted
    assert partitions.names_of(f"ridge|{CONTEXT['key']}") == wanted
    assert partitions.names_of(str(partitions.grid_key(*wanted))) == wanted


def test_tables_of_metadata_cannot_be_broken_by_their_cells(here):
    table = here.module("show").table
    text = table(["a|b", "c"], [[1.23456, "x|y"], ["<b>", "two\nlines"]])
    assert text == "| a\\|b | c |\n| --- | --- |\n| 1.2346 | x\\|y |\n| &lt;b> | two lines |"
    # Names of alleles, drugs and cell types are shown as they are, and columns that begin with a sign as well.
    (line,) = table(
        ["HLA-A*02, HLA-B*07", "_x_", "K_562", "[E](http://x)", "a\\|b", "~y~ `z`", "R&amp;D"], []
    ).splitlines()[:1]
    assert line == (
        r"| HLA-A\*02, HLA-B\*07 | \_x\_ | K_562 | \[E\](http://x) | a\\\|b | \~y\~ \`z\` | R&amp;amp;D |"
    )
