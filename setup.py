"""Ships `ds_configs/` and `examples/` inside the wheel, where `trl-weaks config` finds them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BESIDE = (
    '#\n# [tool.uv.sources]\n# trl-weaks = { path = "..", editable = true }\n'  # `uv run` in a clone takes the clone
)
SHIPPED = {"ds_configs": ("*.json", "*.yaml", "README.md"), "examples": ("*.py", "*.yaml")}


class BuildWithConfigs(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # the folders stand beside the package
            return
        for folder, patterns in SHIPPED.items():
            for path in sorted(path for pattern in patterns for path in Path(folder).rglob(pattern)):
                target = Path(self.build_lib) / "trl_weaks" / "_shipped" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(path.read_text(encoding="utf-8").replace(BESIDE, ""), encoding="utf-8")


setup(cmdclass={"build_py": BuildWithConfigs})
