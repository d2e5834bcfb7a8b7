"""D3PM with discretised Gaussian noise over the alphabet, T = 1000.

    python -m experiments.train --config configs/text8/d3pm_gaussian.py \\
        --workdir runs/text8-d3pm_gaussian --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official code: rate 2e-4,
clipping at 0.25, T = 1000. Data and device as in configs/text8/mdlm.py. Published, bits per character
on the test split: nothing on text; the kernel is for ordered tokens. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.betas import LinearBetas
from diffusion.d3pm import D3PM
from diffusion.dense import Gaussian
from experiments.config import AdamW, Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=D3PM(kernel=Gaussian(), schedule=LinearBetas(1e-4, 0.02)),
        model=replace(base.model, time_conditioning=True, dropout=0.0),
        optimizer=AdamW(peak_lr=2e-4, warmup_steps=5000, clip_norm=0.25),
    )
