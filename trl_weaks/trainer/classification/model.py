"""The student of `WeakClassificationTrainer`: loaded, checked, and fitted with padding."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer import disable_dropout_in_model

from ...losses.base import WeakLoss
from ...supervisors.class_names import names_of
from .._compat import create_model_from_path, is_peft_model, suppress_seqcls_warning
from ..common.dropout import silence_functional_dropout
from ..weak_classification_config import WeakClassificationConfig
from .data import check_same_classes

Student = tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str] | None]


def load_student(
    model: "str | PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase | None,
    num_classes: int,
    args: WeakClassificationConfig,
    classes: list[str] | None = None,
) -> Student:
    """Load what is given by name, and see that model, tokenizer and data fit.

    Args:
        classes: what the data calls its classes; a student without names of its own gets them.

    Returns:
        Model, tokenizer, and the parameters that start at random; None for those of a model that is given as such.

    Raises:
        ValueError: the model has another number of outputs than the data has classes, or other names for them, or
            dropout that `disable_dropout` cannot reach.
    """
    kwargs, new = dict(args.model_init_kwargs or {}), None
    if isinstance(model, str):
        if kwargs.setdefault("num_labels", num_classes) != num_classes:
            raise ValueError(f"`model_init_kwargs`: num_labels={kwargs['num_labels']}, the data has {num_classes}.")
        kwargs.setdefault("trust_remote_code", args.trust_remote_code)
        if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
            kwargs["device_map"] = None
        with suppress_seqcls_warning():
            model, new = _with_new_parameters(model, kwargs)
    elif kwargs:
        raise ValueError(
            "`model_init_kwargs` is for a model given by name; this one is already there: load it with them."
        )
    elif model.config.num_labels != num_classes:
        raise ValueError(
            f"The model has `num_labels={model.config.num_labels}`, the data has {num_classes} classes, and each "
            f"output stands for one class. Load it with `num_labels={num_classes}`."
        )
    problem = getattr(model.config, "problem_type", None)
    if problem not in (None, "single_label_classification"):
        raise ValueError(
            f"The student's config has problem_type={problem!r}, with which others would read its outputs by a "
            "sigmoid or as numbers; it is trained on classes that exclude each other. Set "
            "`config.problem_type = None`."
        )
    _name_classes(model, classes)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(
            model.config._name_or_path, revision=kwargs.get("revision"), trust_remote_code=args.trust_remote_code
        )
    _agree_on_padding(model, tokenizer)
    if args.disable_dropout:
        disable_dropout_in_model(model)
        silence_functional_dropout(model)
    if getattr(model.config.get_text_config(), "use_cache", None):
        model.config.get_text_config().use_cache = False  # there is nothing to generate
    return model, tokenizer, new


def _with_new_parameters(path: str, kwargs: dict[str, Any]) -> tuple[PreTrainedModel, list[str]]:
    """The model, and its parameters that the checkpoint does not have, or not in this shape; without a decoder's head,
    of which TRL silences the report."""
    model, read = create_model_from_path(
        path, AutoModelForSequenceClassification, **kwargs | {"output_loading_info": True}
    )
    absent = {*read["missing_keys"], *(key for key, *_ in read["mismatched_keys"])}
    return model, [name for name, _ in model.named_parameters() if name in absent]


def _name_classes(model: PreTrainedModel, classes: list[str] | None) -> None:
    """Give the student the data's names of the classes, or see that its own are the same."""
    if classes is None:
        return
    own = names_of(model.config.id2label, model.config.num_labels)
    check_same_classes(own, classes, "The student's `id2label`", "the training data")
    if own is None:
        model.config.id2label = dict(enumerate(classes))
        model.config.label2id = {name: k for k, name in enumerate(classes)}


def _agree_on_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Decoders read their prediction at the last token that is not `config.pad_token_id`."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("The tokenizer has neither a pad token nor an end-of-sequence token; set `pad_token`.")
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def refuse_dead_head(model: nn.Module, loss: WeakLoss) -> None:
    """`relu` evidence has no gradient where no logit is positive: a head that starts at zero would never move.

    Raises:
        ValueError: the loss uses relu evidence and the classification head is all zero.
    """
    read = loss.dirichlet
    if read is None or read.evidence != "relu":
        return
    base = model.get_base_model() if is_peft_model(model) else model
    linears = [m for m in base.modules() if isinstance(m, nn.Linear) and m.out_features == base.config.num_labels]
    if not linears:
        return
    weight, bias = linears[-1].weight, linears[-1].bias
    start = read.offset if bias is None else read.offset + bias
    if not weight.any() and (torch.as_tensor(start) <= 0).all():
        raise ValueError(
            "`evidence='relu'` on a classification head that starts at zero: every logit is 0, where relu has no "
            "gradient, so training would never start. Use 'exp' or 'softplus', or give the head a random start."
        )


def context_length(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens the model can read, special ones included; None where neither config nor tokenizer says."""
    base = model.get_base_model() if is_peft_model(model) else model
    limits = [getattr(base.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    return min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
