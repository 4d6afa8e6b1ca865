"""Plain fine-tuning with the weak trainer, on rows whose answers are certain."""

from transformers import PreTrainedTokenizerBase

from trl_weaks.columns import COMPLETION, PROMPT
from trl_weaks.trainer.common.model_card import Supervision
from trl_weaks.trainer.weak_supervision_trainer import WeakSupervisionTrainer


class GoldTrainer(WeakSupervisionTrainer):
    """
    [`WeakSupervisionTrainer`] for rows of `prompt` and `completion` without weak labels: the updates of `SFTTrainer`.

    This way every model of the study runs through one trainer, and tiny ones on a CPU need not pay for TRL's fused
    head, which pads its work to 4,096 tokens. Rows are tokenized in batches, as pre-training has many of them.
    """

    trusts_plain_rows = True

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        rows = dataset.map(
            tokenized,
            batched=True,
            fn_kwargs={"tokenizer": processing_class},
            remove_columns=[PROMPT, COMPLETION],
            desc=f"Tokenizing {dataset_name} dataset",
        )
        if dataset is self._given_train:
            self._supervision = Supervision(("gold",), len(rows), len(rows))
        return super()._prepare_dataset(rows, processing_class, args, packing, formatting_func, dataset_name)


def tokenized(batch: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[list[int]]]:
    """`input_ids` and `labels` as TRL makes them: the text ends with the end of sequence, and what the prompt alone
    has at the start, token by token, is not learned."""
    eos = tokenizer.eos_token
    completions = [text if text.endswith(eos) else text + eos for text in batch[COMPLETION]]
    prompts = tokenizer(batch[PROMPT])["input_ids"]
    whole = tokenizer([prompt + text for prompt, text in zip(batch[PROMPT], completions, strict=True)])["input_ids"]
    labels = []
    for prompt, ids in zip(prompts, whole, strict=True):
        pairs = enumerate(zip(prompt, ids, strict=False))
        start = next((i for i, (a, b) in pairs if a != b), min(len(prompt), len(ids)))
        labels.append([-100] * start + ids[start:])
    return {"input_ids": whole, "labels": labels}
