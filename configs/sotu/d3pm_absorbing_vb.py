"""D3PM with the mask, T = 1000, trained on the bound alone: `d3pm_absorbing` without its hybrid term.

    python -m experiments.train --config configs/sotu/d3pm_absorbing_vb.py --workdir runs/absorbing_vb

Only for the comparison in docs/measurements.md.

Measured: bound 2.498 +- 0.010 bits per character, two seeds.
"""

from dataclasses import replace

from configs.sotu import d3pm_absorbing
from diffusion.d3pm import D3PM
from experiments.config import Experiment


def get_config() -> Experiment:
    return replace(d3pm_absorbing.get_config(), process=D3PM())
