"""UDLM: uniform noise in continuous time, leave-one-out head.

    python -m experiments.train --config configs/text8/udlm.py \\
        --workdir runs/text8-udlm --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official code. Data and
device as in configs/text8/mdlm.py. Published, bits per character on the test split: at most 1.44 to
1.67, as different papers report it. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.udlm import UDLM
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=UDLM(),
        model=replace(base.model, time_conditioning=True, dropout=0.1),
        sampler=Ancestral(steps=256),
        optimizer=AdamW(WarmupConstant(peak_lr=3e-4, warmup_steps=2500)),
    )
