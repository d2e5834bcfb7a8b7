"""Dirichlet flow matching distilled to one step.

    python -m experiments.train --config configs/sotu/dirichlet_one_step.py --workdir runs/one_step \\
        --set teacher.workdir=runs/dirichlet

The teacher is a finished run of configs/sotu/dirichlet.py. A step of training runs the teacher's ODE,
here of 16 steps, so it costs some six times the teacher's. It starts from the teacher's parameters.
Samples are one network call: `sample` needs no teacher. Figures: docs/measurements.md.
"""

from dataclasses import replace

from configs.sotu import dirichlet
from diffusion.one_step import OneStep
from experiments.config import Experiment, Teacher
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = dirichlet.get_config()
    return replace(
        base,
        process=OneStep(steps=16),
        sampler=Ancestral(steps=1),
        optimizer=AdamW(WarmupCosine(peak_lr=1e-3, warmup_steps=20, decay_steps=200), beta2=0.99),
        train=replace(base.train, num_steps=200, eval_every=100, checkpoint_every=100),
        teacher=Teacher(),
    )
