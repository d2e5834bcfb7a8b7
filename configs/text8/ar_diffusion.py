"""AR-Diffusion on text8: 12 layers x 768, length 256, batch 512, 1 M steps.

    python -m experiments.train --config configs/text8/ar_diffusion.py \\
        --workdir runs/text8-ar-diffusion --set data.path=data/text8

Data and device as in configs/text8/mdlm.py, whose optimiser it has. Nothing is published for it on
text8, and no bound at all. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.ar_diffusion import ARDiffusion
from experiments.config import Experiment
from samplers.mean_ancestral import MeanAncestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=ARDiffusion(),
        model=replace(base.model, time_conditioning=True),
        sampler=MeanAncestral(steps=1024),
    )
