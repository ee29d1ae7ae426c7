"""Descriptions of the peer's metrics: the quantity, its bounds, and the reasons for an undefined value."""

from __future__ import annotations

from typing import NamedTuple

Bounds = tuple[float | None, float | None]


class Text(NamedTuple):
    """One metric in words.

    Attributes
    ----------
    description
        What it measures.
    bounds
        Smallest and largest possible value, None for unbounded.
    undefined
        Why a value can be NaN.
    """

    description: str
    bounds: Bounds
    undefined: str


NO_CONTROLS = "the context has no control cells"
_GATED = f"fewer than 10 genes are significant in the truth, or {NO_CONTROLS}"
_CLASSES = f"fewer than 10 genes or every gene is significant in the truth, or {NO_CONTROLS}"
_NONE_REAL = f"no gene is significant in the truth, or {NO_CONTROLS}"
_NONE_PRED = f"no gene is significant in the prediction, or {NO_CONTROLS}"
_NEITHER = f"no gene is significant on either side, or {NO_CONTROLS}"
_NO_SIGN = f"the truth's significant genes have no fold change, or {NO_CONTROLS}"
_ALL_TARGETS = f"every gene is the target of a perturbation, or {NO_CONTROLS}"
_NO_EFFECT = f"the truth has no effect beyond sampling noise, a single condition, or {NO_CONTROLS}"
_SHARE, _SIGNED, _ABOVE, _ANY = (0.0, 1.0), (-1.0, 1.0), (0.0, None), (None, None)
# A share of right signs is divided by what is above chance, at least 0.05.
_CORRECTED = (-20.0, 1.0)


def _expression() -> dict[str, Text]:
    profile = "expression profiles (log of summed counts per 50,000; means of log values without counts)"
    out = {
        "expr_mae": Text(f"Mean absolute error over genes of {profile}.", _ABOVE, NO_CONTROLS),
        "expr_mse": Text(f"Mean squared error over genes of {profile}.", _ABOVE, NO_CONTROLS),
        "delta_pearson": Text(
            "Pearson correlation over genes of predicted and measured effect, profile less the measured control's; -1 for "
            "a constant prediction.",
            _SIGNED,
            f"the measured effect is constant, or {NO_CONTROLS}",
        ),
        "expr_mse_unbiased": Text(
            "Mean squared error of profiles without the target gene, less what sampling of cells adds on both sides; a "
            "diagnostic.",
            _ANY,
            NO_CONTROLS,
        ),
        "expr_mse_unbiased_capped": Text(
            "`expr_mse_unbiased` with what is taken off for the prediction bounded by the truth's and by how far "
            "predictions of the context differ; a diagnostic, numerator of `expr_mse_unbiased_capped_norm`.",
            _ANY,
            NO_CONTROLS,
        ),
        "expr_distance_unbiased": Text(
            "Mean squared effect of the truth without the target gene, less what sampling adds; a diagnostic of the "
            "data, denominator of `expr_mse_unbiased_capped_norm`.",
            _ANY,
            NO_CONTROLS,
        ),
        "expr_real_mass_ratio": Text(
            "Share of the target depth that measured profiles hold, 1 for summed counts; a diagnostic of the data.",
            _ABOVE,
            NO_CONTROLS,
        ),
        "expr_mse_unbiased_capped_norm": Text(
            "Summed bias-corrected error over summed bias-corrected effect of the perturbations of a context: 0 is "
            "exact, 1 is predicting the control.",
            _ANY,
            _NO_EFFECT,
        ),
        "delta_mse": Text("Mean squared error over genes of the effect.", _ABOVE, NO_CONTROLS),
        "delta_mae": Text("Mean absolute error over genes of the effect.", _ABOVE, NO_CONTROLS),
    }
    for name in ("l1", "l2", "cosine"):
        out[f"pds_{name}"] = Text(
            f"1 - place / (n - 1) of the true effect among those of its context's n perturbations by {name} distance to "
            "the predicted one, without the target genes of all; equals share their places.",
            _SHARE,
            _ALL_TARGETS,
        )
    return out


def _sets() -> dict[str, Text]:
    out = {}
    for k in (None, 50, 100, 200, 500):
        suffix, number = ("", "as many as there are") if k is None else (f"_top{k}", f"up to {k}")
        out[f"overlap{suffix}"] = Text(
            f"Share of the truth's significant genes of largest fold change ({number}) found among as many of the "
            "prediction; 0 where there are none.",
            _SHARE,
            NO_CONTROLS,
        )
        out[f"precision{suffix}"] = Text(
            f"Share of the prediction's significant genes of largest fold change ({number}) found among as many of the "
            "truth; 0 where there are none.",
            _SHARE,
            NO_CONTROLS,
        )
    out |= {
        "nsig_counts_real": Text("Number of significant genes of the truth.", _ABOVE, NO_CONTROLS),
        "nsig_counts_pred": Text("Number of significant genes of the prediction.", _ABOVE, NO_CONTROLS),
        "nsig_spearman": Text(
            "Spearman correlation over the perturbations of a context of the numbers of significant genes; -1 for a "
            "constant prediction.",
            _SIGNED,
            f"fewer than 10 perturbations have significant genes, all have as many, or {NO_CONTROLS}",
        ),
        "sig_recall": Text(
            "Share of the truth's significant genes that are significant in the prediction.", _SHARE, _GATED
        ),
        "sig_jaccard": Text(
            "Intersection over union of the significant genes without the target; 1 where both are empty.",
            _SHARE,
            NO_CONTROLS,
        ),
        "sig_mcc": Text(
            "Matthews correlation of being significant; -1 where the prediction has no or every gene.",
            _SIGNED,
            _CLASSES,
        ),
        "overlap_adjusted": Text(
            "Matthews correlation of the truth's significant genes with as many of the prediction's strongest.",
            _SIGNED,
            _CLASSES,
        ),
        "precision_adjusted": Text(
            "Markedness of the significant genes; -1 where the prediction has no or every gene.",
            _SIGNED,
            NO_CONTROLS,
        ),
        "sig_recall_adjusted": Text("Informedness of the significant genes.", _SIGNED, _CLASSES),
        "pr_auc": Text(
            "Average precision of the predicted adjusted p-values for the truth's significant genes.",
            _SHARE,
            _CLASSES,
        ),
        "roc_auc": Text(
            "Area under the ROC curve of the predicted adjusted p-values for the truth's significant genes.",
            _SHARE,
            _CLASSES,
        ),
    }
    return out


def _fold_changes() -> dict[str, Text]:
    out = {
        "lfc_nmae": Text(
            "Summed absolute error of the log2 fold changes of the truth's significant genes without the target, over "
            "their summed size.",
            _ABOVE,
            _GATED,
        )
    }
    for suffix, which in (("", ""), ("_pos", " that rise"), ("_neg", " that fall")):
        out[f"lfc_spearman{suffix}"] = Text(
            f"Spearman correlation of the fold changes of the truth's significant genes{which}; -1 for a constant "
            "prediction.",
            _SIGNED,
            f"fewer than 10 such genes, a constant truth, or {NO_CONTROLS}",
        )
    return out


def _directions() -> dict[str, Text]:
    right = "Share of right signs of fold changes among the"
    reach = "Depth in the prediction's order of significance to which"
    return {
        "direction_match": Text(
            f"{right} truth's significant genes; 0 where the prediction has none of them.", _SHARE, _GATED
        ),
        "model_direction_match": Text(
            f"{right} prediction's significant genes; 0 without any.",
            _SHARE,
            f"fewer than 10 genes are tested, or {NO_CONTROLS}",
        ),
        "direction_precision": Text(
            f"{right} prediction's significant genes that have a direction in the truth; 0 without any.",
            _SHARE,
            f"fewer than 10 genes have a direction in the truth, or {NO_CONTROLS}",
        ),
        "direction_sensitivity": Text(
            f"{reach} 97.5% of the signs of the truth's significant genes are right, over their number.",
            _SHARE,
            _GATED,
        ),
        "direction_sensitivity_universe": Text(
            f"{reach} 97.5% of the signs of all genes are right, over the truth's number of significant ones.",
            _ABOVE,
            _GATED,
        ),
        "direction_fidelity": Text(
            f"{right} prediction's significant genes without the target, above that of the truth's more frequent sign.",
            _CORRECTED,
            f"no gene is significant in the prediction, or {_NO_SIGN}",
        ),
        "direction_fidelity_raw": Text(
            f"{right} prediction's significant genes without the target.", _SHARE, _NONE_PRED
        ),
        "direction_coverage": Text(
            "Number of the prediction's significant genes that have a direction in the truth, over that of the truth's.",
            _ABOVE,
            _NONE_REAL,
        ),
        "direction_yield": Text(
            "Right signs of the prediction's significant genes above chance, over the truth's number of significant ones.",
            _ANY,
            f"no gene is significant in the truth, or {_NO_SIGN}",
        ),
        "direction_yield_raw": Text(
            "Right signs of the prediction's significant genes over the truth's number of significant ones.",
            _ABOVE,
            _NONE_REAL,
        ),
        "direction_fidelity_yield": Text(
            "`direction_fidelity` times the coverage, at most 1 of it.", _CORRECTED, _NO_SIGN
        ),
        "direction_fidelity_yield_raw": Text(
            "Right signs of the prediction's significant genes without the target, over the larger number of "
            "significant genes of both sides.",
            _SHARE,
            _NEITHER,
        ),
        "direction_reach": Text(
            f"{reach} signs of the truth's significant genes are right beyond chance, over their number.",
            _SHARE,
            _NO_SIGN,
        ),
        "direction_reach_raw": Text(
            f"{reach} 90% of the signs of the truth's significant genes without the target are right, over their number.",
            _SHARE,
            _NONE_REAL,
        ),
        "direction_reach_unbounded": Text(
            f"{reach} signs of all genes are right beyond chance, over the truth's number of significant ones.",
            _ABOVE,
            _NO_SIGN,
        ),
        "direction_reach_unbounded_raw": Text(
            f"{reach} 90% of the signs of all genes are right, over the truth's number of significant ones.",
            _ABOVE,
            _NONE_REAL,
        ),
    }


TEXTS: dict[str, Text] = {
    **_expression(),
    **{f"de_wilcoxon_{n}": t for n, t in {**_sets(), **_fold_changes(), **_directions()}.items()},
}
