"""Model card of a weakly supervised classifier. TRL's own templates speak of text generation or reward models."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..._version import __version__
from ..common.model_card import base_model, describe_loss
from .data import VOTES

TEMPLATE = Path(__file__).with_name("card.md")


def classification_card(
    trainer: Any, model_name: str | None, dataset_name: str | None, tags: str | list[str] | None
) -> ModelCard:
    """The card, from what the trainer knows."""
    base = base_model(trainer)
    extra = [tags] if isinstance(tags, str) else list(tags or [])
    args, votes = trainer.args, trainer.train_dataset[VOTES]
    counts = sorted({len(row) for row in votes} if trainer._pool is None else trainer._pool.votes)
    return ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            pipeline_tag="text-classification",
            base_model=base,
            datasets=dataset_name,
            tags=[*trainer._tag_names, *extra],
        ),
        template_path=str(TEMPLATE),
        model_name=model_name or Path(args.output_dir).name,
        hub_model_id=trainer.hub_model_id,
        dataset_name=dataset_name,
        base_model=base,
        version=__version__,
        num_classes=trainer.model.config.num_labels,
        rows=len(votes),
        votes=" to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))),
        loss=describe_loss(trainer.weak_loss),
        labels="soft" if args.soft_labels else "hard",
        pooling=args.pooling,
        evidence=trainer.evidence,
        prior=trainer.prior,
        offset=trainer.evidence_offset,
        paper_title=trainer._paper["title"],
        paper_id=trainer._paper["id"],
        citation=trainer._paper["citation"],
    )
