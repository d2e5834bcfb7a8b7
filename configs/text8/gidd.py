"""GIDD: masks and uniform tokens as noise together, the published 10 % uniform.

    python -m experiments.train --config configs/text8/gidd.py \\
        --workdir runs/text8-gidd --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Noise and training weights of the official
code; it has no text8 config, so the rest is as of the other methods here. Data and device as in
configs/text8/mdlm.py. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.gidd import GIDD
from experiments.config import Experiment
from experiments.time_weights.dynamic import Dynamic
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=GIDD(p_uniform=0.1),
        model=replace(base.model, time_conditioning=True),
        sampler=Ancestral(steps=256),
        train=replace(base.train, time_weight=Dynamic()),
    )
