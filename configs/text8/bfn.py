"""Bayesian flow network: the published text8 run.

    python -m experiments.train --config configs/text8/bfn.py \\
        --workdir runs/text8-bfn --set data.path=data/text8

24 layers x 768, length 256, batch 416, up to 10 M steps (here 1.2 M). Settings of the official code,
whose precision was fp16. Data and device as in configs/text8/mdlm.py. Published: at most 1.41 bits per
character on the test split, without its reconstruction term. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.bfn import BFN
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=BFN(),
        model=replace(base.model, num_layers=24, time_conditioning=True),
        sampler=Ancestral(steps=256),
        optimizer=AdamW(
            WarmupConstant(peak_lr=1e-4, warmup_steps=0),
            beta1=0.9,
            beta2=0.98,
            weight_decay=0.01,
            clip_norm=5.0,
        ),
        train=replace(base.train, batch_size=416, num_steps=1_200_000),
    )
