"""Dirichlet flow matching on text8, distilled to one step.

    python -m experiments.train --config configs/text8/dirichlet_one_step.py \\
        --workdir runs/text8-dirichlet-one-step --set data.path=data/text8 \\
        --set teacher.workdir=runs/text8-dirichlet

The teacher is a finished run of configs/text8/dirichlet.py; its trajectories have the 100 steps of the
paper (arXiv 2402.05841). Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import dirichlet
from diffusion.one_step import OneStep
from experiments.config import Experiment, Teacher
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = dirichlet.get_config()
    return replace(
        base,
        process=OneStep(),
        sampler=Ancestral(steps=1),
        optimizer=AdamW(WarmupCosine(peak_lr=1e-4, warmup_steps=1000, decay_steps=100_000)),
        train=replace(base.train, num_steps=100_000),
        teacher=Teacher(),
    )
