"""What weak preferences add to TRL's `DPOConfig`."""

from dataclasses import dataclass, field

from trl import DPOConfig

from ..columns import PAIR_EPSILON, PAIR_WEIGHT
from ..losses.dpo_losses import DPO_LOSSES, SORTING
from ..losses.preference import PREFERENCE_LOSSES
from .common.parallel_checks import forget_earlier_trainers
from .common.publishing import PublicSettings
from .objective_config import check_choices, refuse_settings
from .preference.checks import as_trained

SMOOTHED = ("robust", "exo_pair", *SORTING)  # TRL's losses that read `label_smoothing`

UNWEIGHTED = (
    "'aot' sorts the batch, so its terms belong to no pair. Set `use_pair_weight=False`, or choose another loss."
)

# Inherited settings that no preference loss can honour: name -> (the only value accepted, why).
FIXED = {
    "label_smoothing_factor": (0.0, "it smooths token labels; the flip probability of a pair is `label_smoothing`"),
}
# Those that belong to TRL's losses, and change what `preference_loss` names.
TRL_ONLY = {
    "loss_type": (["sigmoid"], "`preference_loss` names the loss already; leave one of the two unset"),
    "loss_weights": (None, "they mix TRL's losses (`loss_type`), and `preference_loss` names one; leave it unset"),
    "f_divergence_type": (
        "reverse_kl",
        "the optimum margin of cDPO is derived for the reverse KL divergence; leave `preference_loss` unset",
    ),
    "use_weighting": (False, "it belongs to TRL's losses (`loss_type`); leave `preference_loss` unset"),
}


@dataclass
class WeakPreferenceConfig(PublicSettings, DPOConfig):
    r"""
    Configuration of [`WeakPreferenceTrainer`]. Inherited fields keep TRL's meaning.

    Parameters:
        > Parameters that control the loss

        preference_loss (`str`, *optional*, defaults to `"cdpo"`):
            `"cdpo"`: conservative DPO, Eq. 12 of arXiv 2406.03199 (paper). `"rdpo"`: robust DPO, unbiased under flips
            but unbounded below and divergent as the flip probability nears ½. `"cw"`: confidence-weighted DPO
            (CW-PO, arXiv 2603.04968), plain DPO times 1 − 2ε. `"sigmoid"`: plain DPO, Eq. 9. `loss_type="cw"`, or
            another of the first three, is the same.
        label_smoothing (`float`, *optional*):
            Flip probability ε in [0, 0.5) of pairs that bring none of their own. When not set: 0.1 for `"cdpo"`,
            `"rdpo"` and `"cw"` (paper), 0 for `"sigmoid"`, which has no use for it and refuses any other value.
        use_pair_epsilon (`bool`, *optional*):
            Whether each pair's own ε (the `pair_epsilon` column, made by [`build_preferences`]) replaces
            `label_smoothing`. When not set, the column is used where a dataset has it; `True` demands it.
        use_pair_weight (`bool`, *optional*):
            The same for the `pair_weight` column. Weights multiply a pair's loss and are used as they are: a mean of 1
            over the dataset keeps the scale of the loss.
        beta (`float`, *optional*, defaults to `10.0`):
            Deviation from the reference. cDPO pulls the log-ratio margin of a pair to log((1 − ε) / ε) / β and no
            further: 0.22 nats at ε = 0.1 and β = 10 (paper, v1), 0.44 at β = 5 (authors' later runs), 22 at TRL's 0.1.

    > [!NOTE]
    > These parameters have default values different from [`~trl.DPOConfig`]:
    > - `learning_rate`: Defaults to `2e-7` (paper, v1; the authors' later runs use `5e-7`) instead of `1e-6`. Meant
    >   for weights kept in float32 with bfloat16 autocast (`bf16=True`, TRL's default), or under DeepSpeed, which
    >   keeps float32 masters. In pure bfloat16 (the authors' runs) a step of 2e-7 rounds away for all but 0.3 % of
    >   weights drawn from N(0, 0.02): load the model with `dtype="float32"`, or train LoRA adapters, which are
    >   float32, at 1e-5 or more.
    > - `beta`: Defaults to `10.0` (paper, v1) instead of `0.1`.
    > - `label_smoothing`: Defaults to `0.1` (paper) instead of `0.0`.

    With `preference_loss` unset, `loss_type` (`"sigmoid"` too, plain DPO; as the default of a `DPOConfig` it chooses
    nothing) and what goes with it (`loss_weights`, `f_divergence_type`, `use_weighting`) choose TRL's losses, each
    with the pair's weight; `label_smoothing` is then 0 where not set.
    Refused: `label_smoothing_factor`, and weights with `'aot'` and `'aot_unpaired'`, which sort the batch.
    """

    of_no_choice = (("loss_type", ["sigmoid"]),)  # of a `DPOConfig`: its default

    learning_rate: float = field(
        default=2e-7,
        metadata={
            "help": "Initial learning rate of AdamW (paper, v1; authors' later runs: 5e-7). For float32 weights: in "
            "pure bfloat16, whose neighbouring numbers lie 0.4 to 0.8 %% apart, a step of 2e-7 rounds away for all "
            "but 0.3 %% of typical weights and hardly anything trains. Load the model with dtype float32 (bf16 "
            "autocast stays on), or use DeepSpeed's float32 masters, or LoRA at 1e-5 or more."
        },
    )
    beta: float = field(
        default=10.0,
        metadata={
            "help": "Deviation from the reference; cDPO stops at a log-ratio margin of log((1 - e) / e) / beta nats. "
            "10 is the paper's (v1), 5 the authors' later value, 0.1 TRL's."
        },
    )
    loss_type: list[str] | None = field(
        default=None,
        metadata={
            "help": "TRL's loss or losses in the place of `preference_loss`, such as 'sigmoid' (plain DPO) or 'ipo'; "
            "or 'cdpo', 'rdpo' or 'cw'. When not set, `preference_loss` says which."
        },
    )
    label_smoothing: float | None = field(
        default=None,
        metadata={
            "help": "Flip probability in [0, 0.5) of pairs without their own; when not set, 0.1 for 'cdpo', 'rdpo' "
            "and 'cw' (paper), 0 for 'sigmoid'."
        },
    )
    preference_loss: str | None = field(
        default=None,
        metadata={
            "help": "When not set, 'cdpo', or TRL's loss where `loss_type`, `loss_weights`, `f_divergence_type` or "
            "`use_weighting` is set. 'cdpo': conservative DPO, Eq. 12 (paper); 'rdpo': robust DPO; "
            "'cw': DPO times 1 - 2 epsilon; "
            "'sigmoid': plain DPO.",
            "choices": list(PREFERENCE_LOSSES),
        },
    )
    use_pair_epsilon: bool | None = field(
        default=None,
        metadata={
            "help": "Use the `pair_epsilon` column instead of `label_smoothing`: true demands it, false ignores it, "
            "not set uses it where it is. Ours."
        },
    )
    use_pair_weight: bool | None = field(
        default=None,
        metadata={
            "help": "Multiply each pair's loss by the `pair_weight` column: true demands it, false ignores it, not "
            "set uses it where it is. Ours."
        },
    )

    def __post_init__(self):
        forget_earlier_trainers()
        chosen = self.loss_type is not None
        self.loss_type = self.loss_type or ["sigmoid"]
        super().__post_init__()
        self._choose_loss(chosen)
        plain = self.preference_loss in (None, "sigmoid")
        if self.label_smoothing is None:
            self.label_smoothing = 0.0 if plain else 0.1
        if not 0.0 <= as_trained(self.label_smoothing) < 0.5:
            raise ValueError(
                f"`label_smoothing` is the probability that a pair is the wrong way round, in [0, 0.5); got "
                f"{self.label_smoothing}. Above one half, swap chosen and rejected."
            )
        if self.preference_loss is None:
            self._check_trl_losses()
        elif plain and (self.label_smoothing > 0.0 or self.use_pair_epsilon):
            raise ValueError(
                "`preference_loss='sigmoid'` has no flip probability: choose 'cdpo', 'cw' or 'rdpo', or leave "
                "`label_smoothing` and `use_pair_epsilon` unset."
            )
        if not self.beta > 0.0:
            raise ValueError(f"`beta` must be positive; got {self.beta}.")
        refuse_settings(self, FIXED)

    def _choose_loss(self, chosen: bool) -> None:
        own = set(PREFERENCE_LOSSES) - set(DPO_LOSSES)
        if self.preference_loss is None and len(self.loss_type) == 1 and self.loss_type[0] in own:
            self.preference_loss, self.loss_type = self.loss_type[0], ["sigmoid"]
        differ = [name for name, (only, _) in TRL_ONLY.items() if getattr(self, name) != only]
        if self.preference_loss is None and not differ:
            self.preference_loss = "sigmoid" if chosen else "cdpo"
        if self.preference_loss is not None:
            check_choices(self, {"preference_loss": tuple(PREFERENCE_LOSSES)})
            refuse_settings(self, TRL_ONLY)

    def _check_trl_losses(self) -> None:
        unknown = sorted(set(self.loss_type) - set(DPO_LOSSES))
        if unknown:
            raise ValueError(
                f"`loss_type`: no loss {', '.join(unknown)}; choose among {', '.join(DPO_LOSSES)}, "
                "or name one of 'cdpo', 'rdpo' and 'cw' by itself."
            )
        if self.use_pair_epsilon:
            raise ValueError(
                "`use_pair_epsilon=True` is not supported with TRL's losses, which have one `label_smoothing` for all "
                "pairs: choose `preference_loss` 'cdpo', 'cw' or 'rdpo' ('robust' with a pair's own probability)."
            )
        if self.use_pair_weight and set(SORTING) & set(self.loss_type):
            raise ValueError(
                f"`use_pair_weight=True` is not supported with `loss_type` {self.loss_type}: {UNWEIGHTED}"
            )
        if self.label_smoothing and not set(SMOOTHED) & set(self.loss_type):
            raise ValueError(
                f"`label_smoothing={self.label_smoothing}` is read by none of {', '.join(self.loss_type)}, so "
                "it would change nothing: leave it "
                f"unset, or choose `preference_loss`, or `loss_type` among {', '.join(SMOOTHED)}."
            )

    @property
    def pair_columns(self) -> dict[str, bool | None]:
        """The pair columns that the loss can use -> whether they are demanded (`None`: used where they are)."""
        wanted = {PAIR_EPSILON: self.use_pair_epsilon, PAIR_WEIGHT: self.use_pair_weight}
        if self.preference_loss in (None, "sigmoid"):
            del wanted[PAIR_EPSILON]
        return {column: demanded for column, demanded in wanted.items() if demanded is not False}
