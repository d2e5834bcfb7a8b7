"""SDTT: MDLM distilled to fewer steps, the student of a finished run.

    python -m experiments.train --config configs/sotu/sdtt.py --workdir runs/sdtt-1 \\
        --set teacher.workdir=runs/a

The teacher is a run of configs/sotu/mdlm.py. This is one round; the next has this run for its teacher
and `--set process.delta=` twice as large (docs/methods/distillation.md). A step calls the teacher
twice, without gradients, so it costs some 1.7 times one of the teacher's. It begins with the teacher's
parameters.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.distillation import SDTT
from experiments.config import Experiment, Teacher
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=SDTT(delta=1 / 32),
        sampler=Ancestral(steps=16),
        optimizer=AdamW(WarmupCosine(peak_lr=5e-4, warmup_steps=20, decay_steps=200), beta2=0.99),
        train=replace(base.train, num_steps=200, eval_every=100, checkpoint_every=100),
        teacher=Teacher(),
    )
