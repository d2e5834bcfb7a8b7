"""DCD, discrete consistency distillation: UDLM distilled to fewer steps, the student of a finished run.

    python -m experiments.train --config configs/sotu/dcd.py --workdir runs/dcd-1 \\
        --set teacher.workdir=runs/udlm

The teacher is a run of configs/sotu/udlm.py. This is one round; the next has this run for its teacher
and `--set process.delta=` twice as large (docs/methods/distillation.md). A step calls the teacher
once, without gradients. It begins with the teacher's parameters.
"""

from dataclasses import replace

from configs.sotu import sdtt, udlm
from diffusion.distillation import DCD
from experiments.config import Experiment


def get_config() -> Experiment:
    base = sdtt.get_config()
    return replace(base, process=DCD(delta=1 / 32), model=udlm.get_config().model)
