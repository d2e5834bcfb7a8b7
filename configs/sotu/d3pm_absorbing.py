"""D3PM with the mask, T = 1000, hybrid loss.

    python -m experiments.train --config configs/sotu/d3pm_absorbing.py --workdir runs/d3pm_absorbing

The reciprocal schedule is the mutual-information one of this kernel; lambda = 0.01 as published. On
the embedded corpus, with mdlm.py's model (and the time) and budget: about five minutes on two
CPU cores. Figures of all methods side by side: docs/measurements.md.

Measured: bound 2.386 +- 0.016 bits per character, three seeds.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.d3pm import D3PM
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=D3PM(hybrid=0.01),
        model=replace(base.model, time_conditioning=True),
    )
