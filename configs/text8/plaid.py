"""Plaid on text8: 12 layers x 768, length 256, batch 512, 1 M steps, as MD4 trained it.

    python -m experiments.train --config configs/text8/plaid.py \\
        --workdir runs/text8-plaid --set data.path=data/text8

Data and device as in configs/text8/mdlm.py, whose optimiser it has. Published, bits per character on the
test split: at most 1.48 (arXiv 2406.04329). Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.log_snr import LearnedLogSNR
from diffusion.plaid import Plaid
from experiments.config import Experiment
from samplers.mean_ancestral import MeanAncestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=Plaid(schedule=LearnedLogSNR(speed=7.0)),
        model=replace(base.model, time_conditioning=True),
        sampler=MeanAncestral(steps=1024, score_temperature=0.9),
    )
