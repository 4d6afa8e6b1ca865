# /// script
# requires-python = ">=3.11"
# dependencies = ["trl-weaks[plots]"]
#
# [tool.uv.sources]
# trl-weaks = { path = "..", editable = true }
# ///
"""
The weak-to-strong experiment on classification, from weak supervisors to the report.

    accelerate launch examples/classification.py                                    # tiny models, embedded grammar
    accelerate launch examples/classification.py --data_dir path/to/slurp           # SLURP's scenarios
    accelerate launch examples/classification.py --data_dir path/to/slurp --task action --methods all --seeds 0 1 2
    accelerate launch examples/classification.py --preset paper                     # SciQ; GPT2-L, OPT, Pythia -> 7B

A preset is a YAML file of settings; `--config my.yaml` reads your own, and the command line overrides either. Stages
that are done for the same settings are skipped, so the same command continues a killed run.
"""

from trl_weaks.study.pipeline.launch import launch

if __name__ == "__main__":
    launch("classification")
