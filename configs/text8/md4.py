"""MD4: masked diffusion with the cosine schedule.

    python -m experiments.train --config configs/text8/md4.py \\
        --workdir runs/text8-md4 --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official text8 config: AdaLN
time conditioning, gated MLP, no clipping. Data and device as in configs/text8/mdlm.py. Published,
bits per character on the test split: at most 1.37. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=MDLM(schedule=Cosine()),
        model=replace(base.model, time_conditioning=True, mlp="swiglu"),
        optimizer=AdamW(
            WarmupCosine(peak_lr=3e-4, warmup_steps=2000, decay_steps=1_000_000),
            weight_decay=0.03,
            clip_norm=None,
        ),
    )
