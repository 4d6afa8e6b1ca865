"""Configuration of `WeakClassificationTrainer`."""

from dataclasses import dataclass, field
from typing import Any

from ..aggregation import AGGREGATORS, make_aggregator
from ..losses.auxiliary_confidence import AuxiliaryConfidence
from ..losses.base import LOSSES, WeakLoss
from ..losses.prediction_window import PredictionWindow
from ..registry import Choices
from ._compat import BaseConfig
from .objective_config import EVIDENCE, ObjectiveConfig, check_choices, check_positive, refuse_settings

CHOICES = {
    "weak_loss": LOSSES.choices,
    "pooling": Choices(AGGREGATORS, first=("linear", "log_linear", "majority")),
    "evidence": EVIDENCE,
    "threshold": ("argmax", "balanced"),
}
FIXED = {"label_smoothing_factor": (0.0, "the soft labels already carry the supervisors' doubt; leave it 0")}


@dataclass
class WeakClassificationConfig(ObjectiveConfig, BaseConfig):
    r"""
    Configuration of [`WeakClassificationTrainer`]. Inherited fields keep TRL's meaning.

    Parameters:
        > Parameters that control the model

        model_init_kwargs (`dict[str, Any]`, *optional*):
            Keyword arguments of `from_pretrained` when the model is given by name.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether models and tokenizers may bring code of their own.
        disable_dropout (`bool`, *optional*, defaults to `True`):
            Train without dropout. Burns et al.'s code, which the paper follows.

        > Parameters that control the data

        max_length (`int`, *optional*):
            Texts are cut to this many tokens. When not set, a text longer than the model's context is an error.
        pad_to_multiple_of (`int`, *optional*):
            Pad batches to a multiple of this length, in tokens.
        dataset_num_proc (`int`, *optional*):
            Processes that tokenise.

        > Parameters that control the loss

        weak_loss (`str`, *optional*, defaults to `"bayesian"`):
            `"naive"`: cross-entropy to the weak labels (Eq. 2). `"bayesian"`: evidential loss (Eq. 3, 4, Appendix B).
            Equations are those of arXiv 2406.03199. `"dirichlet_votes"`: a Dirichlet fitted to the supervisors' votes,
            which alone sees their disagreement (ours). Or any other name of `trl_weaks.losses.LOSSES`, which
            [`register_loss`] gives to a loss of your own.
        loss_kwargs (`dict[str, Any]`, *optional*):
            Arguments of that loss that are no settings here, such as `{"kl_clamp": 20.0}`.
        soft_labels (`bool`, *optional*, defaults to `True`):
            Use the supervisors' class probabilities (paper). `False` hardens each vote to its largest class.
        pooling (`str`, *optional*, defaults to `"linear"`):
            How the votes become one label: `"linear"`, the weighted mean, which is Eq. 2 and 4; `"log_linear"`, the
            weighted geometric mean (ours); `"majority"`, the class with the most votes. Any other name of
            `trl_weaks.aggregation.AGGREGATORS`, such as `"dawid_skene"` or one of your own, is fitted once to the
            training rows before training; evaluation rows are read by what was fitted. `"raven"` and
            `"student_dawid_skene"` go on learning from the student while it trains.
        pooling_kwargs (`dict[str, Any]`, *optional*):
            Arguments of that aggregator, such as `{"learning_rate": 0.05}` of `"raven"`.
        gamma_max (`float`, *optional*, defaults to `0.5`):
            Final weight of the auxiliary confidence loss (Eq. 1, 5); 0 turns it off. Burns et al.; the paper does not
            say for classification. In our studies with pre-trained students of 18 and 60 classes they collapsed with
            it, which is warned of after training: start with 0.
        gamma_warmup (`float`, *optional*, defaults to `0.1`):
            Fraction of training over which that weight rises linearly from 0. Burns et al., without their code's jump.
        threshold (`str`, *optional*, defaults to `"argmax"`):
            The student's own label in the auxiliary loss: `"argmax"` (paper), or `"balanced"` (Burns et al.), under
            which classes are predicted as often as the weak labels say.
        threshold_window (`int`, *optional*, defaults to `256`):
            Recent rows, of all processes, that `"balanced"` balances over. They are those of the updates before, so
            that the gradient does not depend on the accumulation steps; the first update takes the argmax. Ours;
            Burns et al. use their batch of 32.

        > Parameters that control the evidential loss

        evidence (`str`, *optional*, defaults to `"exp"`):
            Maps logits to evidence: `"exp"` (authors' code for generation), `"softplus"` or `"relu"`. `"relu"` has no
            gradient where logits are not positive, so it is refused on a head that starts at zero.
        kl_coef (`float`, *optional*, defaults to `1.0`):
            Final weight of the KL regulariser. Sensoy et al., 2018; the paper does not say for classification. The
            divergence grows with the classes and the evidence: with many classes and few updates 1 leaves the student
            near the uniform distribution (our preset for 18 classes takes 0.01).
        kl_anneal (`float`, *optional*, defaults to `1.0`):
            Fraction of training over which that weight rises linearly from 0. Authors' code for generation.
        vote_precision (`float`, *optional*, defaults to `100.0`):
            Observations a vote is worth under `weak_loss="dirichlet_votes"`. Ours.

        > Parameters that control speed

        cache_frozen_layers (`bool`, *optional*, defaults to `False`):
            Where the student's embeddings and lowest layers are frozen, keep their hidden states of each text while
            training, as in [`WeakSupervisionConfig`]. Ours.

    > [!NOTE]
    > These parameters have default values different from [`~transformers.TrainingArguments`]: `logging_steps` 10,
    > `gradient_checkpointing` `True` and `bf16` `True` as everywhere in TRL, and `learning_rate` 1e-5 (paper).
    """

    _VALID_DICT_FIELDS = BaseConfig._VALID_DICT_FIELDS + ["model_init_kwargs", "loss_kwargs", "pooling_kwargs"]

    learning_rate: float = field(default=1e-5, metadata={"help": "Initial learning rate. Paper."})
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of from_pretrained when the model is given by name."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether models and tokenizers may bring code of their own."}
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "Train without dropout. Burns et al.'s code, which the paper follows."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Cut texts to this many tokens; not set, a text beyond the model's context is an error."},
    )
    pad_to_multiple_of: int | None = field(
        default=None, metadata={"help": "Pad batches to a multiple of this length, in tokens."}
    )
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes that tokenise."})
    weak_loss: str = field(
        default="bayesian",
        metadata={
            "help": "Loss on the weak labels: %(choices)s. 'naive' is cross-entropy (paper, Eq. 2), 'bayesian' the "
            "evidential loss (paper, Eq. 3-4), 'dirichlet_votes' a Dirichlet fitted to the votes (ours); losses of "
            "your own are registered by `trl_weaks.losses.register_loss`.",
            "choices": CHOICES["weak_loss"],
        },
    )
    pooling: str = field(
        default="linear",
        metadata={
            "help": "How the votes become one label: 'linear' mean (paper), 'log_linear' mean (ours), 'majority', or "
            "an aggregator that is fitted before training, such as 'dawid_skene'.",
            "choices": CHOICES["pooling"],
        },
    )
    pooling_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of the aggregator that `pooling` names, as JSON."}
    )
    gamma_max: float = field(
        default=0.5,
        metadata={"help": "Final weight of the auxiliary confidence loss, in [0, 1); 0 turns it off. Burns et al."},
    )
    gamma_warmup: float = field(
        default=0.1, metadata={"help": "Fraction of training over which that weight rises from 0. Burns et al."}
    )
    threshold: str = field(
        default="argmax",
        metadata={
            "help": "The student's own label: 'argmax' (paper) or 'balanced' (Burns et al.).",
            "choices": CHOICES["threshold"],
        },
    )
    threshold_window: int = field(
        default=256,
        metadata={"help": "Rows of the updates before, of all processes, that 'balanced' balances over. Ours."},
    )
    kl_coef: float = field(
        default=1.0,
        metadata={"help": "Final weight of the KL regulariser; less for many classes. Sensoy et al., 2018."},
    )
    vote_precision: float = field(
        default=100.0, metadata={"help": "Observations a vote is worth under 'dirichlet_votes'. Ours."}
    )

    def check_objective(self) -> None:
        """Raises ValueError for settings that are wrong, or wrong together."""
        super().check_objective()
        check_choices(self, CHOICES)
        check_positive(self, ("threshold_window", "max_length", "pad_to_multiple_of"))
        refuse_settings(self, FIXED)
        if self.threshold == "balanced" and self.gamma_max == 0.0:
            raise ValueError(
                "`threshold='balanced'` belongs to the auxiliary loss, which `gamma_max=0` turns off: leave "
                "`threshold` unset."
            )
        if LOSSES[self.weak_loss].needs_votes and self.pooling != "linear":
            raise ValueError(f"`weak_loss={self.weak_loss!r}` fits every vote by itself: leave `pooling` alone.")
        if self.pooling == "log_linear" and not self.soft_labels:
            raise ValueError(
                "`pooling='log_linear'` of hardened votes (`soft_labels=False`) is empty wherever two supervisors "
                "differ: keep `soft_labels=True`, or choose 'linear' or 'majority'."
            )
        self._check_pooling()
        self.check_loss()

    def _check_pooling(self) -> None:
        """Raises ValueError for arguments that the aggregator has not, or refuses."""
        if not self.pooling_kwargs:
            return
        if isinstance(self.pooling_kwargs, str):
            raise ValueError(
                "`pooling_kwargs` must be a JSON object, such as '{\"learning_rate\": 0.05}'; got "
                f"{self.pooling_kwargs!r}."
            )
        if self.pooling in ("linear", "log_linear", "majority"):
            raise ValueError(f"`pooling={self.pooling!r}` takes no arguments: leave out `pooling_kwargs`.")
        make_aggregator(self.pooling, "pooling", self.pooling_kwargs, student=True)

    def build_loss(self) -> WeakLoss:
        """The loss that these settings describe."""
        # Eq. 4 as printed: the loss of each class, weighted by its probability
        loss = self._supervised_loss(kl_clamp=None, kl_target="expected")
        if self.gamma_max == 0.0:
            return loss
        window = PredictionWindow(self.threshold_window) if self.threshold == "balanced" else None
        return AuxiliaryConfidence(loss, self.gamma_max, self.gamma_warmup, self.threshold, window)
