"""Soft targets: a smaller MDLM that learns from a larger one's distributions beside the text.

    python -m experiments.train --config configs/sotu/soft_targets.py --workdir runs/small \\
        --set teacher.workdir=runs/a

The teacher is a run of configs/sotu/mdlm.py, which a step calls once without gradients; the student has
half its layers and half its width. `--set process.share=0` is the same training from the text alone.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.soft_targets import SoftTargets
from experiments.config import Experiment, Teacher


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=SoftTargets(),
        model=replace(base.model, num_layers=2, width=64, num_heads=2),
        teacher=Teacher(start_from=False),
    )
