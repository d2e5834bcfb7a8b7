"""GIDD: masks and uniform tokens as noise together, the published 10 % uniform.

    python -m experiments.train --config configs/sotu/gidd.py --workdir runs/gidd

The published training weights masks, uniform tokens and clean ones by constants; the bound keeps its own
weights. `--set train.time_weight=AsBound` trains on the bound, `--set process.p_uniform=0.2` has more
uniform tokens. On the embedded corpus, with mdlm.py's model (and the time) and budget.

Measured: bound 2.521 +- 0.020 bits per character.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.gidd import GIDD
from experiments.config import Experiment
from experiments.time_weights.dynamic import Dynamic


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=GIDD(p_uniform=0.1),
        model=replace(base.model, time_conditioning=True),
        train=replace(base.train, time_weight=Dynamic()),
    )
