"""What the trainers refuse beside weak labels, the reason and the remedy: data for errors and documentation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from ... import markdown


@dataclass(frozen=True)
class Refusal:
    """
    Something that cannot be honoured for rows with weak labels. Plain rows are trained as TRL trains them.

    Args:
        what: As one writes it: a setting, an argument, a kind of student or of dataset.
        reason: Why it is not honoured.
        remedy: What to do instead.
    """

    what: str
    reason: str
    remedy: str

    def error(self, where: str = "") -> ValueError:
        return ValueError(f"{where}{self.what} is not supported with weak labels: {self.reason}. {self.remedy}")


def _packs(args: Any) -> bool:
    return args.packing or bool(args.eval_packing)


def _dispatches(args: Any) -> bool:
    return (_packs(args) or args.padding_free) and bool(getattr(args.accelerator_config, "dispatch_batches", None))


# A setting, and when it is refused.
SETTINGS: tuple[tuple[Refusal, Callable[[Any], bool]], ...] = (
    (
        Refusal(
            "`loss_type='dft'`",
            "it is another loss of the whole row, and here the loss is chosen with `weak_loss`",
            "Remove it, or give your own `loss`.",
        ),
        lambda args: args.loss_type != "nll",
    ),
    (
        Refusal(
            "`label_smoothing_factor`",
            "the soft labels already carry the supervisors' doubt",
            "Set it to 0.",
        ),
        lambda args: args.label_smoothing_factor != 0.0,
    ),
    (
        Refusal(
            "`use_liger_kernel=True`",
            "it replaces the forward that the weak loss runs in",
            "Use the Hub's kernels: `model_init_kwargs={'use_kernels': True}`.",
        ),
        lambda args: args.use_liger_kernel,
    ),
    (
        Refusal(
            "`completion_only_loss=False`",
            "weak labels speak about completions, and the prompt has none",
            "Leave it unset.",
        ),
        lambda args: args.completion_only_loss is False,
    ),
    (
        Refusal(
            "`dataset_kwargs={'skip_prepare_dataset': True}`",
            "it leaves out the alignment of the confidences with the student's tokens",
            "Remove it.",
        ),
        lambda args: bool((args.dataset_kwargs or {}).get("skip_prepare_dataset")),
    ),
    (
        Refusal(
            "`packing_strategy='wrapped'`",
            "it cuts completions in two anywhere, and lets the texts of a row attend to each other",
            "Use 'bfd', or 'bfd_split' to lose nothing of long rows.",
        ),
        lambda args: _packs(args) and args.packing_strategy == "wrapped",
    ),
    (
        Refusal(
            "`eval_packing=True` without `packing` or `padding_free`",
            "TRL's collator then attends across the texts of a packed row",
            "It needs `packing=True` or `padding_free=True`.",
        ),
        lambda args: bool(args.eval_packing) and not (args.packing or args.padding_free),
    ),
    (
        Refusal(
            "`dispatch_batches=True` with `packing` or `padding_free`",
            "it cuts batches by rows, and packed texts share a row",
            "Leave it unset.",
        ),
        _dispatches,
    ),
)

# Arguments of the trainer.
ARGUMENTS: dict[str, Refusal] = {
    "data_collator": Refusal(
        "`data_collator`",
        "batches of weak labels are the trainer's own",
        "Change the rows instead, or train with `SFTTrainer`.",
    ),
    "compute_loss_func": Refusal(
        "`compute_loss_func`",
        "it would replace the weak loss",
        "Pass `loss` to change the loss.",
    ),
}

# What a student, its tokenizer or a dataset can be.
ENCODER_DECODER = Refusal(
    "an encoder-decoder student (T5, BART)",
    "the loss reads prompt and completion as one sequence, as `SFTTrainer` does, which needs a causal language model",
    "Use a decoder-only model.",
)
SLOW_TOKENIZER = Refusal(
    "a student's tokenizer without character offsets",
    "confidences cannot be moved to its tokens",
    "Use a fast tokenizer.",
)
SPLIT_SPECIAL_TOKENS = Refusal(
    "`split_special_tokens=True` of the tokenizer",
    "the end of sequence would be read letter by letter",
    "Set `tokenizer.split_special_tokens = False`.",
)
TRANSFORM = Refusal(
    "a dataset that uses `Dataset.with_transform()`",
    "preparation reads through the transform, which can bake a random one into the columns, and "
    "`dataset_kwargs={'skip_prepare_dataset': True}` would leave out the alignment of the confidences",
    "Write trainer-ready columns with `Dataset.map()` first.",
)
PACKED_MODEL = Refusal(
    "`packing` or `padding_free` for OPT, recurrent layers, and models found inexact when tried at start",
    "the texts of a row would see each other",
    "Train without `packing` and `padding_free`.",
)
PARALLEL = Refusal(
    "sequence, context or tensor parallelism",
    "it cuts the texts, or the output layer, that the loss reads whole",
    "Use ZeRO-3 or FSDP2, and for long texts `gradient_checkpointing=True`.",
)
SEVERAL_MESSAGES = Refusal(
    "a completion of several messages",
    "`weak_offsets` speak about the characters of one message",
    "Put earlier turns into `prompt`.",
)
LOSS_ALONE = Refusal(
    "`loss` for a training dataset without weak labels",
    "such rows are trained exactly as `SFTTrainer` trains them",
    "Make the dataset with `label_completions`, or remove `loss`.",
)
ALL: tuple[Refusal, ...] = (
    *(refusal for refusal, _ in SETTINGS),
    *ARGUMENTS.values(),
    ENCODER_DECODER,
    SLOW_TOKENIZER,
    SPLIT_SPECIAL_TOKENS,
    TRANSFORM,
    PACKED_MODEL,
    PARALLEL,
    SEVERAL_MESSAGES,
    LOSS_ALONE,
)

# The other two trainers raise where they find it; a test asks for each, and finds these words in the error.
PREFERENCE: tuple[Refusal, ...] = (
    Refusal(
        "`label_smoothing_factor`", "it smooths token labels", "the flip probability of a pair is `label_smoothing`"
    ),
    Refusal(
        "`preference_loss` beside `loss_type`",
        "`preference_loss` names the loss already",
        "leave one of the two unset",
    ),
    Refusal(
        "`preference_loss` beside `loss_weights`",
        "they mix TRL's losses (`loss_type`), and `preference_loss` names one",
        "leave it unset",
    ),
    Refusal(
        "`preference_loss` beside `f_divergence_type`",
        "the optimum margin of cDPO is derived for the reverse KL divergence",
        "leave `preference_loss` unset",
    ),
    Refusal(
        "`preference_loss` beside `use_weighting`",
        "it belongs to TRL's losses (`loss_type`)",
        "leave `preference_loss` unset",
    ),
    Refusal(
        "`label_smoothing` or `use_pair_epsilon=True` with `preference_loss='sigmoid'`",
        "`preference_loss='sigmoid'` has no flip probability",
        "choose 'cdpo', 'cw' or 'rdpo', or leave `label_smoothing` and `use_pair_epsilon` unset",
    ),
    Refusal(
        "`use_pair_epsilon=True` with TRL's losses",
        "which have one `label_smoothing` for all pairs",
        "choose `preference_loss` 'cdpo', 'cw' or 'rdpo'",
    ),
    Refusal(
        "`label_smoothing` with a `loss_type` that does not read it",
        "it would change nothing",
        "leave it unset, or choose `preference_loss`",
    ),
    Refusal(
        "`pair_weight` with `loss_type` 'aot' or 'aot_unpaired'",
        "'aot' sorts the batch, so its terms belong to no pair",
        "Set `use_pair_weight=False`, or choose another loss",
    ),
    Refusal(
        "`disable_dropout=True` (TRL's default) with a layer that reads its dropout from the configuration (Falcon)",
        "the configuration is the caller's",
        "Set `model.config.hidden_dropout = 0.0`",
    ),
    Refusal(
        "a model that holds adapters and is no `PeftModel`",
        "which of them would be trained, and saved, is not said",
        "Merge them into it first (`PeftModel.merge_and_unload()`), or pass the `PeftModel`",
    ),
    Refusal(
        "`data_collator` of `WeakPreferenceTrainer`",
        "the trainer's own keeps ε and weight with their pair",
        "change the rows instead",
    ),
    Refusal(
        "a model built in memory without `ref_model`",
        "no reference can be reloaded from a path",
        "Pass `ref_model=copy.deepcopy(model)`, or a `peft_config`, or set `precompute_ref_log_probs=True`",
    ),
    Refusal(
        "a `PeftModel` that trains another adapter than 'default', without `ref_model`",
        "the reference is a copy of the adapter 'default'",
        "Load the one to train as 'default'",
    ),
    Refusal(
        "a dataset of images",
        "their collator carries no pair columns",
        "train on text, or with `DPOTrainer`",
    ),
)
CLASSIFICATION: tuple[Refusal, ...] = (
    Refusal("`label_smoothing_factor`", "the soft labels already carry the supervisors' doubt", "leave it 0"),
    Refusal("`data_collator`, `compute_loss_func`, `model_init`", "the trainer makes its own", "leave it out"),
    Refusal(
        "`threshold='balanced'` with `gamma_max=0`",
        "belongs to the auxiliary loss, which `gamma_max=0` turns off",
        "leave `threshold` unset",
    ),
    Refusal(
        "`weak_loss='dirichlet_votes'` with `gamma_max` or another `pooling`",
        "fits every vote by itself",
        "set `gamma_max=0`",
    ),
    Refusal(
        "`weak_loss` 'realm' or 'realm_learned' with `gamma_max`", "fits every vote by itself", "set `gamma_max=0`"
    ),
    Refusal(
        "`weak_loss` 'adaptive_confidence', 'confidence_window', 'entropy' or 'product' with `gamma_max`",
        "trains on the student's own prediction already",
        "set `gamma_max=0`",
    ),
    Refusal(
        "`weak_loss='dirichlet_votes'` with `evidence='relu'`",
        "needs evidence above 0",
        "set `evidence` to 'exp' or 'softplus'",
    ),
    Refusal(
        "`pooling='log_linear'` with `soft_labels=False`",
        "is empty wherever two supervisors differ",
        "keep `soft_labels=True`, or choose 'linear' or 'majority'",
    ),
    Refusal(
        "`evidence='relu'` with a classification head of zeros",
        "every logit is 0, where relu has no gradient",
        "Use 'exp' or 'softplus', or give the head a random start",
    ),
    Refusal(
        "`model_init_kwargs` with a loaded model",
        "`model_init_kwargs` is for a model given by name",
        "load it with them",
    ),
    Refusal(
        "`peft_config` that leaves the classification head untrained",
        "leaves the classification head untrained",
        "Set `task_type='SEQ_CLS'`",
    ),
    Refusal(
        "prompt tuning or P-tuning of a decoder",
        "loses sight of the padding, and would read its prediction there",
        "Use LoRA, or `PrefixTuningConfig`",
    ),
    Refusal(
        "a `PeftModel` with `peft_config`",
        "The model has adapters already",
        "merge them first, or leave `peft_config` out",
    ),
    Refusal(
        "`disable_dropout=True` (the default) with a layer that reads its dropout from the configuration",
        "the configuration is the caller's",
        "Set `model.config.hidden_dropout = 0.0`",
    ),
    Refusal(
        "class names of another number than the votes have classes",
        "are probabilities of",
        "or name those of the votes",
    ),
    Refusal(
        "an evaluation set without votes and `label`",
        "to compare the student with",
        "Texts alone are for `predict` and `predict_classes`",
    ),
    Refusal(
        "a model with another number of labels than the data has classes",
        "each output stands for one class",
        "Load it with `num_labels=K`",
    ),
    Refusal(
        "a student whose `id2label` has the data's names in another order",
        "class ids would be mixed up",
        "Bring one of them into the order of the other",
    ),
)


def refuse(args: Any, given: dict[str, Any]) -> None:
    """Raises ValueError for a setting, or an argument of the trainer, that weak labels cannot honour."""
    for refusal, asked in SETTINGS:
        if asked(args):
            raise refusal.error()
    for name, refusal in ARGUMENTS.items():
        if given.get(name) is not None:
            raise refusal.error()


def refuse_student(config: PreTrainedConfig) -> None:
    """Raises ValueError for a student that is no causal language model."""
    if config.is_encoder_decoder:
        raise ENCODER_DECODER.error(f"{config.model_type}: ")


def refuse_tokenizer(tokenizer: Any) -> None:
    """Raises ValueError for a tokenizer that cannot place confidences."""
    if not getattr(tokenizer, "is_fast", False):
        raise SLOW_TOKENIZER.error(f"{type(tokenizer).__name__}: ")
    if getattr(tokenizer, "split_special_tokens", False):
        raise SPLIT_SPECIAL_TOKENS.error()


def table(refused: tuple[Refusal, ...] = ALL) -> str:
    """Refusals as a Markdown table."""
    return markdown.table(["refused", "because", "instead"], [[r.what, r.reason, r.remedy] for r in refused]) + "\n"
