"""SEDD on the absorbing graph, free score head with output scaling, log-linear noise.

    python -m experiments.train --config configs/text8/sedd_absorbing.py \\
        --workdir runs/text8-sedd_absorbing --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official code (small model),
length 256. Data and device as in configs/text8/mdlm.py. Published, bits per character on the test
split: at most 1.39. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.sedd import SEDD
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from samplers.tweedie import Tweedie


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=SEDD(scaled=True),
        model=replace(base.model, time_conditioning=True, dropout=0.1),
        sampler=Tweedie(steps=256),
        optimizer=AdamW(WarmupConstant(peak_lr=3e-4, warmup_steps=2500)),
    )
