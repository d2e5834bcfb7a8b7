"""GenMD4: masked diffusion that learns when to mask each letter.

    python -m experiments.train --config configs/sotu/genmd4.py --workdir runs/genmd4

Two noisy copies of each sequence a step, for the gradient of the schedule: twice the work. On the
embedded corpus, with mdlm.py's model (and the time) and budget: about five minutes on two CPU
cores. Figures of all methods side by side: docs/measurements.md.

Measured: bound 3.407 +- 0.010 bits per character, on text8-first74M, 800 steps.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.genmd4 import GenMD4
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=GenMD4(eps=1e-4),
        model=replace(base.model, time_conditioning=True),
    )
