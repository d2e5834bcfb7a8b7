"""Difformer on text8: 12 layers x 768, length 256, batch 512, 1 M steps.

    python -m experiments.train --config configs/text8/difformer.py \\
        --workdir runs/text8-difformer --set data.path=data/text8

Data and device as in configs/text8/mdlm.py, whose optimiser it has; without label smoothing, as
configs/sotu/difformer.py says. The paper (arXiv 2212.09412) has no
number for text8, and no bound at all. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.difformer import Difformer
from experiments.config import Experiment
from samplers.mean_ancestral import MeanAncestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=Difformer(label_smoothing=0.0),
        model=replace(base.model, time_conditioning=True),
        sampler=MeanAncestral(steps=20, rounding="last"),
    )
