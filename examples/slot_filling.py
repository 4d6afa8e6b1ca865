# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks[plots]"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
The weak-to-strong experiment on slot filling, from weak supervisors to the report.

    accelerate launch examples/slot_filling.py                                   # tiny models, embedded grammar
    accelerate launch examples/slot_filling.py --data_dir path/to/slurp          # the same on SLURP
    accelerate launch examples/slot_filling.py --methods all --seeds 0 1 2       # every row of the paper's Tables 4, 5
    accelerate launch examples/slot_filling.py --preset paper                    # the paper's models

A preset is a YAML file of settings; `--config my.yaml` reads your own, and the command line overrides either. Stages
that are done for the same settings are skipped, so the same command continues a killed run.
"""

from trl_weaks.study.pipeline.launch import launch

if __name__ == "__main__":
    launch("slot_filling")
