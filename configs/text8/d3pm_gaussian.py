"""D3PM with discretised Gaussian noise over the alphabet, T = 1000.

    python -m experiments.train --config configs/text8/d3pm_gaussian.py \\
        --workdir runs/text8-d3pm_gaussian --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official code: rate 2e-4, T
= 1000, gradients clipped at 0.25 of the official loss, which is ours divided by T. Data and device as
in configs/text8/mdlm.py. Published, bits per character on the test split: nothing on text; the kernel
is for ordered tokens. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import d3pm_absorbing
from diffusion.betas import LinearBetas
from diffusion.d3pm import D3PM
from diffusion.dense import Gaussian
from experiments.config import Experiment


def get_config() -> Experiment:
    return replace(
        d3pm_absorbing.get_config(),
        process=D3PM(kernel=Gaussian(), schedule=LinearBetas(1e-4, 0.02)),
    )
