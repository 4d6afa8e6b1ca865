"""`trl-weaks config` prints the files of `ds_configs`, and `--version` the version."""

from pathlib import Path

import pytest

from trl_weaks import __version__
from trl_weaks.cli import main

CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"


def test_every_configuration_is_listed_and_printed_as_it_is(capsys):
    for options, paths in (([], CONFIGS.glob("accelerate/*.yaml")), (["--deepspeed"], CONFIGS.glob("*.json"))):
        main(["config", *options])
        names = capsys.readouterr().out.split()
        assert names == sorted(path.stem for path in CONFIGS.glob("accelerate/*.yaml" if not options else "*.json"))
        for path in paths:
            main(["config", path.stem, *options])
            assert capsys.readouterr().out == path.read_text()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(SystemExit, match="no configuration 'zero9'. Did you mean 'zero\\d'\\? Known: .*zero3"):
        main(["config", "zero9"])


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"trl-weaks {__version__}"
