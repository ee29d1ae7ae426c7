"""Options of the PerturbFM models: sizes, training, side information, and switches for ablations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from perturbfm_core.models.baselines.borrowing import Borrowing
from perturbfm_core.training.options import DeviceName, Precision

GatingMode = Literal["none", "scalar", "node", "lowrank", "mlp"]
CoreName = Literal["stack", "process", "mean", "none"]
Gate = Literal["auto", "on", "off"]
ControlState = Literal["measured", "permuted"]


class PerturbFMParams(Borrowing):
    """Options of a PerturbFM model.

    Attributes
    ----------
    hidden_dim
        Width d of embeddings and hidden layers.
    rank
        Rank r of the output layer, the number of response components; at most 64.
    n_layers
        Hidden layers of the trunk, and blocks of the cell encoder of v3a.
    n_heads
        Attention heads of the cell encoder of v3a.
    dropout
        Share of hidden values dropped in training.
    epochs
        Maximum number of epochs of a training.
    lr
        Learning rate.
    weight_decay
        Weight decay of AdamW.
    batch_size
        Conditions per step; none means all at once up to 1,024, and 1,024 per step beyond that.
    patience
        Epochs without a better validation score after which a training stops.
    ema_decay
        Decay of the moving average of the weights, which is what is kept.
    direction_weight
        Weight of the direction term in the loss.
    distance_weight
        Weight in the loss of the error of predicted distances between conditions.
    combo_weight
        Weight in the loss of conditions with more than one perturbed gene.
    device
        Where networks are trained.
    precision
        Precision of the forward pass; takes effect on CUDA. ``auto`` is fp32, which is faster than bf16 for
        networks of this size.
    compile
        Compile the network; takes effect on CUDA.
    gene_features
        Names of gene-feature tables.
    borrow
        Other data sets (``DATASET`` or ``DATASET:CONTEXT``) whose effects of the same genes are a member of the
        stack and a table of gene features.
    adjacency
        Names of gene graphs; ``coexpression`` is built from the train rows.
    diffusion_steps
        Steps T of the diffusion over each graph.
    diffusion_top
        How many nodes each row of the diffusion keeps.
    graph_features
        Dimensions of the spectral features of each graph, 0 for none.
    gating_mode
        Form of the gates on the nodes of a graph.
    pert_masks
        File (npz) with the weights of the genes that each perturbation acts on, for drugs; all other
        perturbations are genes.
    num_bases
        Number of matrices that the contextual operator mixes, besides the identity.
    core
        Prediction that the network corrects: the stack of set process and baselines, the set process alone,
        the train mean, or zero.
    gate
        Use the network's correction if inner folds show a gain (`auto`), always, or never.
    ensemble_size
        Number of networks, each on units drawn with replacement; their spread is epistemic variance.
    pretrained_encoder
        A pre-trained cell encoder for the control state: key, folder or kind (see `perturbfm pretrain`).
    freeze_encoder
        Keep the weights of the pre-trained encoder fixed.
    hvg_count
        How many highly variable genes of the train rows the cell encoder takes as input; none means all.
    basal
        The network uses the control state; the core does in any case.
    context
        The network uses the context; the core does in any case.
    perturbation
        Use the identity and features of the perturbed genes; without it the graphs are not used either.
    graph
        Use the graphs.
    gating
        Gate the nodes of graphs.
    contextual_operator
        Let the operator depend on the context.
    control_state
        ``permuted`` shuffles the genes of every control state of the network, not of the core; the loss in accuracy
        measures what the network gains from it.
    """

    hidden_dim: int = Field(default=64, ge=1)
    rank: int = Field(default=64, ge=1, le=64)
    n_layers: int = Field(default=2, ge=1)
    n_heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    epochs: int = Field(default=300, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    batch_size: int | None = Field(default=None, ge=1)
    patience: int = Field(default=30, ge=1)
    ema_decay: float = Field(default=0.95, ge=0, lt=1)
    direction_weight: float = Field(default=0.3, ge=0)
    distance_weight: float = Field(default=0.0, ge=0)
    combo_weight: float = Field(default=1.0, gt=0)
    device: DeviceName = "auto"
    precision: Precision = "auto"
    compile: bool = False
    gene_features: tuple[str, ...] = ()
    adjacency: tuple[str, ...] = ()
    diffusion_steps: int = Field(default=4, ge=1)
    diffusion_top: int = Field(default=256, ge=1)
    graph_features: int = Field(default=64, ge=0)
    gating_mode: GatingMode = "scalar"
    pert_masks: str | None = None
    num_bases: int = Field(default=4, ge=1)
    core: CoreName = "stack"
    gate: Gate = "auto"
    ensemble_size: int = Field(default=1, ge=1)
    pretrained_encoder: str | None = None
    freeze_encoder: bool = False
    hvg_count: int | None = Field(default=None, ge=1)
    basal: bool = True
    context: bool = True
    perturbation: bool = True
    graph: bool = True
    gating: bool = True
    contextual_operator: bool = True
    control_state: ControlState = "measured"

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, given: Any) -> Any:
        """Take `prior`, the name of `core` in earlier entries and fits."""
        if isinstance(given, dict) and "prior" in given and "core" not in given:
            return {"core" if k == "prior" else k: v for k, v in given.items()}
        return given
