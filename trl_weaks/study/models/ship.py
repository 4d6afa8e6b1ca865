"""Makes the tiny models that come with the package: `python -m trl_weaks.study.models.ship`."""

import tempfile
from pathlib import Path

from trl_weaks.study.config import SlotFillingConfig
from trl_weaks.study.models.shipped import ship
from trl_weaks.study.pipeline.launch import parse
from trl_weaks.study.pipeline.run import run
from trl_weaks.study.tasks.slot_filling import SlotFilling


def main() -> None:
    """Pre-train the tiny models of the default run, and write them and their manifest into the package."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--stages", "pretrain", "--pretrain", "true", "--output_dir", folder]
        config = parse(SlotFillingConfig, arguments)
        run(config, SlotFilling(config), "python -m trl_weaks.study.models.ship")
        made = sorted(path.parent for path in Path(folder).glob("base*/stage.json"))
        ship({path.name.removeprefix("base-").replace("base", "student"): path for path in made})


if __name__ == "__main__":
    main()
