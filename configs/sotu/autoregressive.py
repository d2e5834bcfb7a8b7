"""An autoregressive model on the embedded corpus, of the size and budget of configs/sotu/mdlm.py.

    python -m experiments.train --config configs/sotu/autoregressive.py --workdir runs/ar

The same transformer with causal attention. Its likelihood is exact, not a bound. Measured beside others
on text8-first74M: docs/measurements.md.

Measured: exact 1.537 +- 0.004 bits per character, three seeds.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.autoregressive import Autoregressive
from experiments.config import Experiment
from samplers.autoregressive import LeftToRight


def get_config() -> Experiment:
    return replace(mdlm.get_config(), process=Autoregressive(), sampler=LeftToRight())
