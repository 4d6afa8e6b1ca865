"""Pre-training of a tiny student on unlabelled text: what makes it stronger than its supervisors."""

from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from trl_weaks._version import __version__
from trl_weaks.columns import TEXT
from trl_weaks.study.classification.config import ClassificationConfig
from trl_weaks.study.classification.models import ClassifierFactory
from trl_weaks.study.classification.sources import ClassSource
from trl_weaks.study.pipeline.training import train, trainer_settings
from trl_weaks.study.stages import Stage

SEED = 0  # one base for all seeds of the experiment, as with a public checkpoint
KEYS = {"sentences", "training"}


def pretrain_stage(config: ClassificationConfig, source: ClassSource, factory: ClassifierFactory) -> Stage:
    """The stage that builds the student's base and trains it as a language model, in `<output_dir>/base`.

    Raises:
        ValueError: unknown settings in `pretraining`.
    """
    plan = config.capped(dict(config.pretraining or {}))
    unknown = set(plan) - KEYS
    if unknown:
        raise ValueError(f"`pretraining` has unknown settings {sorted(unknown)}; known: {sorted(KEYS)}.")
    sentences = plan.get("sentences", 10000)

    def action(folder: Path) -> None:
        texts = source.unlabelled(sentences)
        model, tokenizer = factory.build(config.student_model, SEED, texts)
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**trainer_settings(plan.get("training") or {}, folder, SEED)),
            train_dataset=Dataset.from_dict({TEXT: texts}),
            processing_class=tokenizer,
        )
        train(trainer, folder, tokenizer)

    spec = {
        "version": __version__,
        "data": source.text_identity(sentences),
        "plan": plan,
        "model": factory.identity(config.student_model),
    }
    return Stage("student, pre-training", Path(config.output_dir) / "base", spec, action)
