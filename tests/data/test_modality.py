"""Modalities that switch a gene off, by name, and the sign that they give a perturbation."""

from __future__ import annotations

import pytest

from perturbfm_core.data.modality import adds_substance, switches_off
from perturbfm_core.models.perturbfm.interventions import interventions
from tests.support.factories import conditions_of

OFF = (
    *(
        "CRISPRi",
        "crispri",
        "CRISPR-i",
        "Crispr_I",
        "CRISPR interference",
        "dCas9-KRAB (CRISPRi)",
        "CRISPRoff",
    ),
    *("Cas13d", "CAS13D", "Cas13-d", "cas13", "RfxCas13d", "CasRx"),
    *("shRNA", "sh-RNA", "siRNA", "SI_RNA", "RNAi", "ASO", "antisense"),
    *("degron", "Degron", "AID-degron", "dTAG", "dTAG-13", "PROTAC"),
    *("inhibitor", "Inhibitors", "small-molecule inhibitor", "kinase inhibitor"),
    *("esiRNA", "PspCas13b", "DjCas13d", "hfCas13d", "CRISPRCas13d", "CRISPR-Cas13d", "dCasRx", "LwaCas13a"),
    *(
        "hCRISPRi-v2",
        "CRISPRi2",
        "CRISPRi v2.1",
        "mAID",
        "mAID degron",
        "HaloPROTAC",
        "CRISPRn",
        "CRISPR nuclease",
        "AID",
    ),
    *("knocked down", "knocked-out", "gene knocked out", "CRISPR-KO v2"),
    *("KO", "ko", "CRISPR-KO", "knockout", "knock-out", "Knock Down", "KD"),
)
NOT_OFF = (
    *("", "CRISPRa", "CRISPR-a", "CRISPR activation", "CRISPR", "dCas9-VPR", "OE", "overexpression", "ORF"),
    *("drug", "small molecule", "agonist", "cytokine", "stimulation", "CRISPRa/CRISPRi", "a", "i", "none"),
    *(
        "CRISPRi/a",
        "CRISPRa/i",
        "CRISPR i+a",
        "CRISPRai",
        "hCRISPRa-v2",
        "CRISPRa2",
        "n",
        "aid in culture",
        "vehicle",
        "IL-13",
    ),
)


@pytest.mark.parametrize("name", OFF)
def test_modalities_that_switch_off(name: str) -> None:
    assert switches_off(name)


@pytest.mark.parametrize("name", NOT_OFF)
def test_modalities_that_do_not(name: str) -> None:
    assert not switches_off(name)


def test_the_sign_of_a_part_is_that_of_its_modality() -> None:
    found = interventions(
        conditions_of([("c", "A", m) for m in ("Cas13d", "CRISPRa", "Inhibitor", "", "si-RNA")])
    )
    assert found.sign.tolist() == [-1.0, 1.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(
            (n, True)
            for n in ("drug", "Drugs", " compound ", "chemical", "cytokines", "ligand", "small molecule")
        ),
        *(
            (n, True)
            for n in ("small_molecule", "trt_cp", "kinase inhibitor", "drug treatment", "Small-molecules")
        ),
        *(
            (n, False)
            for n in ("", "CRISPRi", "trt_sh", "CRISPR+drug", "drug-inducible CRISPRi", "inhibition", "RNAi")
        ),
    ],
)
def test_modalities_that_add_a_substance(name: str, is_one: bool) -> None:
    assert adds_substance(name) == is_one
