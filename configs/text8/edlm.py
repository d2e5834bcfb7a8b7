"""EDLM on text8: an energy network by noise-contrastive estimation over a trained MDLM.

    python -m experiments.train --config configs/text8/edlm.py --workdir runs/text8-edlm \\
        --set data.path=data/text8 --set init_from=runs/text8-mdlm

The energy begins as the base's network. 400 thousand steps as the official script (the paper also names
10 thousand); candidates and window are the paper's. Published: 1.24, an estimate and no bound
(diffusion/edlm.py says why), so nothing measured here compares with it. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.edlm import EDLM
from experiments.config import Experiment
from models.energy import EnergyTransformer
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=EDLM(mdlm.PROCESS, candidates=2, window=0.2, num_steps=64),
        energy=EnergyTransformer(mdlm.MODEL),
        sampler=Ancestral(steps=64),
        optimizer=replace(
            base.optimizer, schedule=replace(base.optimizer.schedule, decay_steps=400_000)
        ),
        train=replace(base.train, num_steps=400_000),
    )
