"""`trl-weaks config` prints the files of `ds_configs`, and `--version` the version."""

from pathlib import Path

import pytest
import yaml

from trl_weaks import __version__
from trl_weaks.cli import main

CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"


def test_every_configuration_is_listed_and_printed(capsys):
    for options, paths in (([], CONFIGS.glob("accelerate/*.yaml")), (["--deepspeed"], CONFIGS.glob("*.json"))):
        main(["config", *options])
        names = capsys.readouterr().out.split()
        assert names == sorted(path.stem for path in CONFIGS.glob("accelerate/*.yaml" if not options else "*.json"))
        for path in paths:
            main(["config", path.stem, *options])
            printed = capsys.readouterr().out
            if options:
                assert printed == path.read_text()
                continue
            made, kept = yaml.safe_load(printed), yaml.safe_load(path.read_text())
            if "deepspeed_config" in kept:  # named where it lies: the command is called in any folder
                named = Path(made["deepspeed_config"].pop("deepspeed_config_file"))
                assert named.is_absolute() and named.is_file() and "root of the repository" not in printed
                assert named.name == Path(kept["deepspeed_config"].pop("deepspeed_config_file")).name
            assert made == kept


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(SystemExit, match="no configuration 'zero9'. Did you mean 'zero\\d'\\? Known: .*zero3"):
        main(["config", "zero9"])


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"trl-weaks {__version__}"
