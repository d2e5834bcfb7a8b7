"""D3PM with the mask, T = 1000, hybrid loss.

    python -m experiments.train --config configs/text8/d3pm_absorbing.py \\
        --workdir runs/text8-d3pm_absorbing --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official code: rate 2e-4, T
= 1000, gradients clipped at 0.25 of the official loss, which is ours divided by T. Data and device as
in configs/text8/mdlm.py. Published, bits per character on the test split: at most 1.45 +- 0.02 (with
lambda = 0.01; 1.47 without). Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.d3pm import D3PM
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=D3PM(hybrid=0.01),
        model=replace(base.model, time_conditioning=True, dropout=0.0),
        sampler=Ancestral(steps=256),
        optimizer=AdamW(WarmupConstant(peak_lr=2e-4, warmup_steps=5000), clip_norm=250.0),
    )
