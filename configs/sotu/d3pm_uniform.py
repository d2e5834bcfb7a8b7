"""D3PM with uniform noise, T = 1000, cosine schedule.

    python -m experiments.train --config configs/sotu/d3pm_uniform.py --workdir runs/d3pm_uniform

No hybrid term: it hurts a leave-one-out head (`diffusion/d3pm.py`). On the embedded corpus, with
mdlm.py's model (and the time) and budget: about five minutes on two CPU cores. Figures of all methods
side by side: docs/measurements.md.

Measured: bound 3.868 +- 0.013 bits per character, on text8-first74M, 800 steps.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.betas import CosineBetas
from diffusion.d3pm import D3PM
from diffusion.kernels import Uniform
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=D3PM(kernel=Uniform(), schedule=CosineBetas()),
        model=replace(base.model, time_conditioning=True),
    )
