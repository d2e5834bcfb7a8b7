"""D3PM with nearest-neighbour noise, T = 1000, mutual-information schedule.

    python -m experiments.train --config configs/text8/d3pm_nearest.py \\
        --workdir runs/text8-d3pm_nearest --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official code: rate 2e-4, T
= 1000, gradients clipped at 0.25 of the official loss, which is ours divided by T. Data and device as
in configs/text8/mdlm.py. Published, bits per character on the test split: at most 1.59 +- 0.03. Not
yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import d3pm_absorbing
from diffusion.betas import MutualInformation
from diffusion.d3pm import D3PM
from diffusion.dense import NearestNeighbour
from experiments.config import Experiment


def get_config() -> Experiment:
    return replace(
        d3pm_absorbing.get_config(),
        process=D3PM(kernel=NearestNeighbour(), schedule=MutualInformation()),
    )
