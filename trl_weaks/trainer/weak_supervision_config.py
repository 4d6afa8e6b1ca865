"""What weak supervision adds to TRL's `SFTConfig`."""

from dataclasses import dataclass, field

from trl import SFTConfig

from ..losses.auxiliary_confidence import AuxiliaryConfidence
from ..losses.base import LOSSES, WeakLoss
from ..registry import Choices
from .objective_config import EVIDENCE, ObjectiveConfig, check_choices, check_positive

CHOICES = {
    "weak_loss": Choices(LOSSES, where=lambda loss: not loss.needs_votes),  # completions have no votes on classes
    "confidence_unit": ("word", "span"),
    "confidence_split": ("confidence", "uniform", "eq8"),
    "evidence": EVIDENCE,
    "overlong": ("truncate", "drop", "refuse"),
}


@dataclass
class WeakSupervisionConfig(ObjectiveConfig, SFTConfig):
    r"""
    Configuration of [`WeakSupervisionTrainer`]. Inherited fields keep TRL's meaning and default.

    Parameters:
        > Parameters that control the loss

        weak_loss (`str`, *optional*, defaults to `"bayesian"`):
            `"naive"`: cross-entropy to the weak labels (Eq. 2). `"bayesian"`: evidential loss, a Dirichlet over the
            vocabulary (Eq. 3, Appendix B). Equations are those of arXiv 2406.03199. Or any other name of
            `trl_weaks.losses.LOSSES`, which [`register_loss`] gives to a loss of your own.
        loss_kwargs (`dict[str, Any]`, *optional*):
            Arguments of that loss that are no settings here, such as `{"kl_clamp": 5.0}`.
        soft_labels (`bool`, *optional*, defaults to `True`):
            Use the supervisors' confidences as soft labels (§4.2). `False` trusts every weak token fully.
        gamma_max (`float`, *optional*, defaults to `0.25`):
            Final weight of the auxiliary confidence loss (Eq. 1, 5), which trains on the student's own hardened
            prediction. 0 turns it off. Authors' code, v1 of the paper.
        gamma_warmup (`float`, *optional*, defaults to `0.25`):
            Fraction of training over which that weight rises linearly from 0. Authors' code, without its jump.

        > Parameters that control the confidences

        confidence_unit (`str`, *optional*, defaults to `"word"`):
            Unit in which a confidence travels from the supervisor's tokens to the student's: `"word"` (paper) or
            `"span"`, the finest common token boundaries (ours).
        confidence_split (`str`, *optional*, defaults to `"confidence"`):
            How a unit's log-probability is shared among the student's tokens: `"confidence"` by the student's own
            confidence, in log space (authors' code, keeps Eq. 7); `"uniform"` equal shares; `"eq8"` as Eq. 8 is
            printed, which does not keep Eq. 7 and serves for comparison only.

        > Parameters that control the rows

        overlong (`str`, *optional*, defaults to `"truncate"`):
            What happens to rows with weak labels that are longer than `max_length`, or than the student's context:
            `"truncate"` cuts them as TRL does (`truncation_mode`), where a word that is cut in two keeps the part of
            its log-probability that its remaining tokens have; `"drop"`; or `"refuse"`. Counted in the log. Ours.

        > Parameters that control the evidential loss

        evidence (`str`, *optional*, defaults to `"exp"`):
            Maps logits to evidence: `"exp"` (authors' code), `"softplus"` or `"relu"`.
        kl_coef (`float`, *optional*, defaults to `1e-4`):
            Final weight of the KL regulariser, rising linearly over `kl_anneal`. Authors' code.
        kl_anneal (`float`, *optional*, defaults to `1.0`):
            Fraction of training over which the KL weight rises. Authors' code.

        evidence_offset (`float`, *optional*, defaults to `0.0`):
            Added to the logits before they become evidence. Small models have little evidence beside the size of the
            vocabulary and learn slowly; about the logarithm of that size helps. Ours; 0 is the paper.

        > Parameters that control speed and memory

        token_trees (`bool`, *optional*):
            Compute what the rows of a micro-batch begin with in common (an instruction, a prompt) once instead of per
            row: same losses, gradients and metrics, up to rounding. `None`: where the student allows it exactly
            (sdpa or eager attention over all tokens before, no dropout). `False`: never. `True`: refuse to train
            where it does not. Micro-batches with too little in common stay rows. Ours.

        loss_chunk_size (`int`, *optional*, defaults to `1024`):
            Supervised tokens whose logits are held at once. Changes memory, never the result. Ours.
        use_cpu_kernels (`bool`, *optional*):
            Training on a CPU: whether the loss passes over the vocabulary by compiled code, which is built when
            trl_weaks is installed where there is a C++ compiler. By default where it loads; `True` refuses to train
            where it does not, and on other devices; `False`: never. Changes speed, and the results by rounding alone.
            Models in float64 or bfloat16 and losses without a closed form keep PyTorch's passes. Ours.
        cache_frozen_layers (`bool`, *optional*, defaults to `False`):
            Where the student's embeddings and lowest layers are frozen (`requires_grad_(False)`, no adapters in them,
            no dropout), compute their last hidden states once for each text, keep them in `output_dir` for the time
            of training (tokens * width numbers), and read them in later epochs: same losses up to rounding. Refused
            where that would not be exact. Ours.
        use_triton_kernels (`bool`, *optional*):
            Training on CUDA: whether the loss passes over the vocabulary by Triton's kernels. By default where Triton
            is installed, with PyTorch's passes, and a line in the log, where one of them does not compile; `True`
            refuses to train where they do not run, and on other devices; `False`: never. Changes speed, and the
            results by rounding alone. Models in float64 and losses without a closed form keep PyTorch's passes. Ours.

    What cannot be honoured beside weak labels is refused by the trainer, see `docs/refused_settings.md`. `packing`
    (strategies `"bfd"` and `"bfd_split"`) and `padding_free` are exact where the model keeps the texts of a row apart,
    and refused where it does not (OPT).
    """

    _VALID_DICT_FIELDS = SFTConfig._VALID_DICT_FIELDS + ["loss_kwargs"]

    weak_loss: str = field(
        default="bayesian",
        metadata={
            "help": "Loss on the weak labels: %(choices)s. 'naive' is cross-entropy (paper, Eq. 2), 'bayesian' the "
            "evidential loss (paper, Eq. 3); losses of your own are registered by `trl_weaks.losses.register_loss`.",
            "choices": CHOICES["weak_loss"],
        },
    )
    gamma_max: float = field(
        default=0.25,
        metadata={"help": "Final weight of the auxiliary confidence loss, in [0, 1); 0 turns it off. Authors' code."},
    )
    gamma_warmup: float = field(
        default=0.25,
        metadata={"help": "Fraction of training over which the auxiliary weight rises from 0. Authors' code."},
    )
    confidence_unit: str = field(
        default="word",
        metadata={
            "help": "Unit that carries a confidence between tokenizers: 'word' (paper) or 'span' (ours).",
            "choices": CHOICES["confidence_unit"],
        },
    )
    confidence_split: str = field(
        default="confidence",
        metadata={
            "help": "Sharing of a unit's log-probability among the student's tokens: 'confidence' (authors' code), "
            "'uniform' (ours), or 'eq8' (Eq. 8 as printed, for comparison).",
            "choices": CHOICES["confidence_split"],
        },
    )
    overlong: str = field(
        default="truncate",
        metadata={
            "help": "Weak rows longer than `max_length` or the student's context: 'truncate' (as TRL does), 'drop' or "
            "'refuse'. Ours.",
            "choices": CHOICES["overlong"],
        },
    )
    evidence_offset: float = field(
        default=0.0,
        metadata={
            "help": "Added to the logits before they become evidence; about log(vocabulary) helps small models. "
            "Ours; 0 is the paper."
        },
    )
    kl_coef: float = field(
        default=1e-4, metadata={"help": "Final weight of the evidential loss's KL regulariser. Authors' code."}
    )
    token_trees: bool | None = field(
        default=None,
        metadata={
            "help": "Compute common beginnings of the rows of a micro-batch once: by default wherever that is exact, "
            "never with False, and with True refuse to train where it is not. Ours."
        },
    )
    loss_chunk_size: int = field(
        default=1024, metadata={"help": "Supervised tokens whose logits are held at once; memory only. Ours."}
    )
    use_cpu_kernels: bool | None = field(
        default=None,
        metadata={
            "help": "On a CPU: the loss passes over the vocabulary by compiled code; by default where it was built "
            "and loads, true: refuse to train where it does not, false: never. Speed only. Ours."
        },
    )
    use_triton_kernels: bool | None = field(
        default=None,
        metadata={
            "help": "On CUDA: the loss passes over the vocabulary by Triton's kernels; by default where Triton is "
            "installed, true: refuse to train where they do not run, false: never. Speed only. Ours."
        },
    )

    def check_objective(self) -> None:
        """Raises ValueError for settings of the loss that are wrong. What weak labels cannot honour of the inherited
        ones is refused by the trainer, which knows whether there are any; see
        `trl_weaks.trainer.completions.refusals`.
        """
        super().check_objective()
        check_choices(self, CHOICES)
        check_positive(self, ("loss_chunk_size",))
        self.check_loss()

    def build_loss(self) -> WeakLoss:
        """The loss that these settings describe."""
        loss = self._supervised_loss()
        if self.gamma_max > 0.0:
            loss = AuxiliaryConfidence(loss, gamma_max=self.gamma_max, warmup=self.gamma_warmup)
        return loss
