"""The ``uncertainty:`` block of an entry."""

from __future__ import annotations

from typing import Any

import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.config import parse
from perturbfm_core.errors import ConfigError
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.uncertainty.config import ConformalConfig, ScaleConfig, UncertaintyConfig


def parsed(**block: Any) -> UncertaintyConfig:
    return parse(UncertaintyConfig, block, "block")


def test_every_entry_is_calibrated_unless_it_says_otherwise() -> None:
    default = parsed()
    assert default.ensemble == 1
    assert default.scale == ScaleConfig(gene_scale=True, effect=True, stratum=True)
    assert default.conformal == ConformalConfig(method="mondrian", groups=("stratum", "gene_scale"))


def test_a_block_of_the_documentation_is_read() -> None:
    found = parsed(
        ensemble=5, scale=True, conformal={"method": "mondrian", "groups": ["stratum", "gene_scale"]}
    )
    assert (found.ensemble, found.scale, found.conformal.axes) == (5, ScaleConfig(), ("stratum",))


@pytest.mark.parametrize(("given", "expected"), [(True, ScaleConfig()), (False, None), (None, None)])
def test_scaling_is_a_switch(given: bool | None, expected: ScaleConfig | None) -> None:
    assert parsed(scale=given).scale == expected


@pytest.mark.parametrize("method", ["pooled", "hierarchical", "weighted", "none"])
def test_only_mondrian_divides_conditions(method: str) -> None:
    assert parsed(conformal={"method": method}).conformal.groups == ()
    assert parsed(conformal={"method": method, "groups": ["gene_scale"]}).conformal.axes == ()
    with pytest.raises(ConfigError, match="divide conditions, which only method mondrian does"):
        parsed(conformal={"method": method, "groups": ["stratum"]})


@pytest.mark.parametrize(
    ("block", "message"),
    [
        pytest.param({"conformal": {"groups": []}}, "mondrian needs groups", id="no groups"),
        pytest.param({"conformal": {"groups": ["stratum", "stratum"]}}, "repeat an axis", id="twice"),
        pytest.param({"conformal": {"groups": ["gene"]}}, "groups", id="unknown group"),
        pytest.param({"conformal": {"method": "magic"}}, "method", id="unknown method"),
        pytest.param({"levels": [0.9, 0.5]}, "ascending", id="descending levels"),
        pytest.param({"levels": [0.0, 0.5]}, "between 0 and 1", id="level zero"),
        pytest.param({"ensemble": 0}, "ensemble", id="no members"),
        pytest.param({"ensembles": 3}, "ensembles", id="misspelt"),
    ],
)
def test_inconsistent_options_are_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(**block)


def entry(**fields: Any) -> ModelEntry:
    return ModelEntry(name="e", description="x", model="ridge", **fields)


def test_the_calibration_is_part_of_a_runs_identity() -> None:
    blocks: list[dict[str, Any]] = [
        {},
        {"scale": False},
        {"conformal": {"method": "pooled"}},
        {"ensemble": 3},
    ]
    hashes = {model_configs(entry(uncertainty=block))[0].config_hash for block in blocks}
    assert len(hashes) == len(blocks)
    # Written out or left out, the default is the same.
    assert model_configs(entry(uncertainty={"scale": True}))[0].config_hash in hashes


def test_a_bad_block_names_its_entry() -> None:
    with pytest.raises(ConfigError, match="uncertainty of entry 'e'"):
        model_configs(entry(uncertainty={"scal": True}))
