"""EDLM: a learned energy on top of a trained MDLM, by noise-contrastive estimation.

    python -m experiments.train --config configs/sotu/mdlm.py --workdir runs/base
    python -m experiments.train --config configs/sotu/edlm.py --workdir runs/edlm \\
        --set init_from=runs/base

The energy network begins as the base, which stays as it is. `python -m experiments.evaluate` bounds the
sampler of process.num_steps steps and process.candidates candidates: sample with as many, --steps 16.
Measured on text8-first74M: docs/measurements.md.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.edlm import EDLM
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from models.energy import EnergyTransformer
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=EDLM(mdlm.PROCESS, candidates=4, num_steps=16),
        energy=EnergyTransformer(mdlm.MODEL),
        sampler=Ancestral(steps=16),
        optimizer=AdamW(WarmupCosine(peak_lr=3e-4, warmup_steps=50, decay_steps=1000), beta2=0.99),
    )
