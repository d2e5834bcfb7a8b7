"""D3PM with discretised Gaussian noise over the alphabet, T = 1000.

    python -m experiments.train --config configs/sotu/d3pm_gaussian.py --workdir runs/d3pm_gaussian

The order of letters means nothing; the kernel is made for pixels, and here for comparison. On the
embedded corpus, with mdlm.py's model (and the time) and budget: about five minutes on two CPU
cores. Figures of all methods side by side: docs/measurements.md.

Measured: bound 3.985 +- 0.062 bits per character, on text8-first74M, 800 steps.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.betas import LinearBetas
from diffusion.d3pm import D3PM
from diffusion.dense import Gaussian
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=D3PM(kernel=Gaussian(), schedule=LinearBetas(1e-4, 0.02)),
        model=replace(base.model, time_conditioning=True),
    )
