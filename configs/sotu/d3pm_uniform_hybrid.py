"""D3PM with uniform noise and the hybrid term, which does not suit it: `d3pm_uniform`, lambda = 0.01.

    python -m experiments.train --config configs/sotu/d3pm_uniform_hybrid.py --workdir runs/hybrid

Only for the comparison in docs/measurements.md.

Measured: bound 4.949 +- 0.021 bits per character, on text8-first74M, 800 steps.
"""

from dataclasses import replace

from configs.sotu import d3pm_uniform
from experiments.config import Experiment


def get_config() -> Experiment:
    base = d3pm_uniform.get_config()
    return replace(base, process=replace(base.process, hybrid=0.01))
