"""UDLM: uniform noise in continuous time, leave-one-out head.

    python -m experiments.train --config configs/sotu/udlm.py --workdir runs/udlm

The same process as `sedd_uniform`, with a distribution of x0 in place of a free score. On the embedded
corpus, with mdlm.py's model (and the time) and budget: about five minutes on two CPU cores.
Figures of all methods side by side: docs/measurements.md.

Measured: bound 2.716 +- 0.019 bits per character, three seeds.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.udlm import UDLM
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=UDLM(),
        model=replace(base.model, time_conditioning=True),
    )
