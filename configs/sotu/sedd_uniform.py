"""SEDD on the uniform graph, free score head, geometric noise.

    python -m experiments.train --config configs/sotu/sedd_uniform.py --workdir runs/sedd_uniform

Sampled by Tweedie's formula, as published. On the embedded corpus, with mdlm.py's model (and
the time) and budget: about five minutes on two CPU cores. Figures of all methods side by side:
docs/measurements.md.

Measured: bound 2.849 +- 0.045 bits per character.
"""

from dataclasses import replace

from configs.sotu import sedd_absorbing
from diffusion.kernels import Uniform
from diffusion.schedules import Geometric
from diffusion.sedd import SEDD
from experiments.config import Experiment


def get_config() -> Experiment:
    return replace(
        sedd_absorbing.get_config(), process=SEDD(kernel=Uniform(), schedule=Geometric(1e-5, 20.0))
    )
