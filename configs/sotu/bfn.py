"""Bayesian flow network, continuous-time loss, the published accuracy of text8.

    python -m experiments.train --config configs/sotu/bfn.py --workdir runs/bfn

On the embedded corpus, with mdlm.py's model (and the time) and budget: about
five minutes on two CPU cores. Bits per character by number of steps:
`--set process.num_steps=25` in `evaluate`. Figures: docs/measurements.md.

Measured: bound 2.906 +- 0.008 bits per character, three seeds.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.bfn import BFN
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=BFN(),
        model=replace(base.model, time_conditioning=True),
    )
