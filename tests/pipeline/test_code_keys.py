"""The keys of stages follow their code: every module that a stage reaches counts, nothing else does."""

from __future__ import annotations

import ast
import shutil
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

import perturbfm_core
from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.models.base import MODELS, new_model
from perturbfm_core.pipeline import trained_model
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.metric_panel import score
from perturbfm_core.pipeline.prediction import predict
from perturbfm_core.registry.members import load_plugin_files
from perturbfm_core.store import code as code_module
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.code import code_of
from tests.support.factories import split_one
from tests.support.networks import QUICK
from tests.support.stages import opened

PACKAGE = Path(perturbfm_core.__file__).parent
PIPELINE = "perturbfm_core.pipeline"


@lru_cache(maxsize=1)
def stages() -> dict[str, tuple[str, ...]]:
    """Return {stage: modules where its search starts}, as the stages themselves ask for them."""
    return {
        **{
            f"fit of {name}": (f"{PIPELINE}.trained_model", *new_model(name).modules())
            for name in ("ridge", "perturbfm-v2", "ensemble")
        },
        "prediction of ridge": (f"{PIPELINE}.prediction", *new_model("ridge").modules()),
        **{f"panel {name}": (f"{PIPELINE}.metric_panel", *panel.modules) for name, panel in PANELS.items()},
        "gene graph": ("perturbfm_core.graphs.coexpression",),
        "encoder": (f"{PIPELINE}.pretrained_encoder",),
        "bounds": ("perturbfm_core.evaluation.ceilings", *PANELS.get("delta").modules),
        "panel bounds": (
            "perturbfm_core.evaluation.panel_bounds",
            *(m for name, panel in PANELS.items() if name != "delta" for m in panel.modules),
        ),
        "tuning": ("perturbfm_core.tuning.validation", *PANELS.get("delta").modules),
    }


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    path = tmp_path_factory.mktemp("core") / "perturbfm_core"
    shutil.copytree(PACKAGE, path, ignore=shutil.ignore_patterns("__pycache__"))
    return path


def digests(copy, added=False):
    """Return the code of every stage, read anew; `added` says that there are new files."""
    code_module._code_of.cache_clear()
    if added:
        code_module._file_of.cache_clear()
    return {name: code_of(*m, roots={"perturbfm_core": copy}) for name, m in stages().items()}


def file_of(copy, module):
    place = copy.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def with_another_constant(text):
    """Return the source with its first constant that is no docstring changed, or one added."""
    tree = ast.parse(text)
    texts = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        plain = isinstance(node, ast.Constant) and type(node.value) in (int, float) and id(node) not in texts
        if plain and node.lineno == node.end_lineno:
            lines = text.split("\n")
            line = lines[node.lineno - 1].encode()
            new = b"(" + line[node.col_offset : node.end_col_offset] + b" + 1)"
            lines[node.lineno - 1] = (line[: node.col_offset] + new + line[node.end_col_offset :]).decode()
            return "\n".join(lines)
    return text + "\nADDED = 1\n"


# Thousands of modules are parsed and walked; measuring which lines that runs through doubles its cost.
@pytest.mark.no_cover
def test_a_constant_in_any_module_of_a_closure_changes_the_key_and_one_outside_does_not(copy):
    before = digests(copy)
    reached = {module for code in before.values() for module in code.modules}
    every = {
        ".".join(["perturbfm_core", *p.relative_to(copy).with_suffix("").parts]).removesuffix(".__init__")
        for p in copy.rglob("*.py")
    }
    assert {m for m in reached if m.startswith("perturbfm_core")} <= every
    # Each module by itself takes minutes for all: every twelfth, then all at once, module by module of what was found.
    for module in sorted(every)[::12]:
        file = file_of(copy, module)
        text = file.read_text()
        file.write_text(with_another_constant(text))
        after = digests(copy)
        file.write_text(text)
        changed = {name for name in before if before[name].digest != after[name].digest}
        assert changed == {name for name, code in before.items() if module in code.modules}, module
    originals = {m: file_of(copy, m).read_text() for m in every}
    for module, text in originals.items():
        file_of(copy, module).write_text(with_another_constant(text))
    after = digests(copy)
    for module, text in originals.items():
        file_of(copy, module).write_text(text)
    for name, code in before.items():
        assert after[name].modules.keys() == code.modules.keys()
        for module in code.modules.keys() & every:
            one = replace(code, modules={**code.modules, module: after[name].modules[module]})
            assert one.digest != code.digest, (name, module)


def test_comments_and_docstrings_change_no_key(copy):
    before = {name: code.digest for name, code in digests(copy).items()}
    originals = {file: file.read_text() for file in copy.rglob("*.py")}
    for file, text in originals.items():
        first = text.split('"""')
        first[1] = first[1] + " Another line."
        file.write_text('"""'.join(first) + "\n# A comment.\n")
    after = {name: code.digest for name, code in digests(copy).items()}
    for file, text in originals.items():
        file.write_text(text)
    assert after == before


def test_an_unrelated_model_metric_or_module_leaves_every_key(copy):
    before = {name: code.digest for name, code in digests(copy).items()}
    added = {
        "models/baselines/new_model.py": "X = 1\n",
        "models/new_model.py": "X = 1\n",
        "evaluation/panels/new_panel.py": "X = 1\n",
        "evaluation/panels/delta_more.py": "X = 1\n",
        "pipeline/new_stage.py": "X = 1\n",
        "splits/kinds/new_kind.py": "X = 1\n",
        "data/new_source.py": "X = 1\n",
    }
    for name, text in added.items():
        (copy / name).write_text(text)
    after = {name: code.digest for name, code in digests(copy, added=True).items()}
    for name in added:
        (copy / name).unlink()
    assert after == before


def test_no_model_reaches_another_that_it_does_not_use():
    ridge = code_of(f"{PIPELINE}.trained_model", *new_model("ridge").modules()).modules
    others = {m for name, kind in MODELS.items() for m in [kind.__module__] if name != "ridge"}
    assert {m for m in ridge if m in others} == set()
    assert not any("perturbfm_core.models.perturbfm" in m for m in ridge)


def test_no_panel_reaches_another():
    for name, panel in PANELS.items():
        reached = code_of(f"{PIPELINE}.metric_panel", *panel.modules).modules
        foreign = {m for other, p in PANELS.items() if other != name for m in p.modules if m in reached}
        assert foreign <= set(panel.modules), name


# ---- what runs is what is reached ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screen():
    ds = simulate(SimulationConfig(name="small", n_obs=400, n_genes=30, n_contexts=3, n_perts=6, n_combos=3))[
        0
    ]
    return ds, split_one(ds, "context_ood", {"holdout": ["C1"]})


def executed(work):
    """Return the modules of the core whose functions run while `work` runs, with what it returns."""
    seen: set[str] = set()

    def watch(frame, event, _):
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(watch)
    try:
        result = work()
    finally:
        sys.setprofile(None)
    root = str(PACKAGE)
    inside = (Path(f).relative_to(PACKAGE).with_suffix("").parts for f in seen if f.startswith(root))
    return {".".join(("perturbfm_core", *parts)).removesuffix(".__init__") for parts in inside}, result


# Told of progress and finding members decide no number.
SILENT = {"perturbfm_core.registry.members", "perturbfm_core.progress"}


@pytest.mark.parametrize(
    ("model", "params"),
    [("ridge", {}), ("set_kernel_ridge", {}), ("ensemble", {"model": "additive"}), ("perturbfm-v2", QUICK)],
)
def test_everything_that_a_fit_and_a_prediction_execute_is_in_their_keys(screen, tmp_path, model, params):
    ds, split = screen
    entry = ModelEntry(name="e", description="x", model=model, params=params)
    e = opened(ArtifactStore(tmp_path / "home"), ds, split, model_configs(entry)[0])
    own = e.config.new_model().modules()
    _ = e.findings, e.keys
    fitting, fitted = executed(lambda: trained_model.fit(e))
    assert fitting - SILENT <= set(code_of(f"{PIPELINE}.trained_model", *own).modules)
    predicting, _ = executed(lambda: predict(e, fitted))
    assert predicting - SILENT <= set(code_of(f"{PIPELINE}.prediction", *own).modules)


def test_everything_that_a_panel_executes_is_in_its_key(screen, tmp_path):
    ds, split = screen
    entry = ModelEntry(name="e", description="x", model="additive")
    e = opened(ArtifactStore(tmp_path / "home"), ds, split, model_configs(entry)[0])
    fitted = trained_model.fit(e)
    comparison = score(e, fitted, predict(e, fitted)).comparison
    for name, panel in PANELS.items():
        comparison.shared.clear()
        comparison.observed_shared.clear()
        running, _ = executed(lambda name=name: evaluate(comparison, [name]).table())
        reached = set(code_of(f"{PIPELINE}.metric_panel", *panel.modules).modules)
        assert running - SILENT <= reached, name


# ---- plug-ins ------------------------------------------------------------------------------------------------

PLUGIN = """
from key_helpers import FACTOR
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.means import GlobalMean

OWN = 1.0


@MODELS.register("scaled_mean")
class ScaledMean(GlobalMean):
    pass
"""


@pytest.mark.parametrize("edited", ["plug/scaled.py", "key_helpers.py"])
def test_the_keys_of_a_plugin_are_of_the_code_that_was_imported(screen, tmp_path, monkeypatch, edited):
    ds, split = screen
    for name in ("_members", "_order"):
        monkeypatch.setattr(MODELS, name, dict(getattr(MODELS, name)))
    (tmp_path / "plug").mkdir()
    (tmp_path / "plug/scaled.py").write_text(PLUGIN)
    (tmp_path / "key_helpers.py").write_text("FACTOR = 1.0\n")
    monkeypatch.setenv("PERTURBFM_PLUGINS", str(tmp_path / "plug"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def keys():
        load_plugin_files()
        entry = ModelEntry(name="e", description="x", model="scaled_mean")
        return opened(ArtifactStore(tmp_path / "home"), ds, split, model_configs(entry)[0]).keys

    def forget():
        for name in ("perturbfm_plugins_scaled", "key_helpers"):
            sys.modules.pop(name, None)
        for name in ("_members", "_order"):
            getattr(MODELS, name).pop("scaled_mean", None)

    file = tmp_path / edited
    text = file.read_text()
    load_plugin_files()
    file.write_text(text.replace("1.0", "-1.0"))
    first = keys()
    forget()
    second = keys()
    assert second.model != first.model
    forget()
    file.write_text(text)
    assert keys().model == first.model
    forget()
