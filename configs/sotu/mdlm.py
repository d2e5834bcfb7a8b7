"""MDLM on the embedded State of the Union addresses, 4 layers x 128, length 128.

    python -m experiments.train --config configs/sotu/mdlm.py --workdir runs/a

About four minutes on two CPU cores. Measured result and machine: docs/measurements.md. The schedule
1 - cos(pi t / 2) spends more of its time where few tokens are masked than a linear one, and learns
faster at this size; the bound it estimates is the same quantity. For a longer run raise
train.num_steps and optimizer.schedule.decay_steps together.

Measured: bound 2.961 +- 0.007 bits per character.
"""

from diffusion.mdlm import MDLM
from diffusion.schedules import MDLMCosine
from experiments.config import Evaluation, Experiment, Train
from experiments.data.text import Text
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from models.transformer import Transformer
from samplers.ancestral import Ancestral

PROCESS = MDLM(schedule=MDLMCosine())
MODEL = Transformer(num_layers=4, width=128, num_heads=4)


def get_config() -> Experiment:
    return Experiment(
        process=PROCESS,
        model=MODEL,
        data=Text(length=128),
        sampler=Ancestral(steps=128),
        optimizer=AdamW(WarmupCosine(peak_lr=2e-3, warmup_steps=50, decay_steps=600), beta2=0.99),
        train=Train(
            num_steps=600,
            batch_size=32,
            ema_decay=0.99,
            log_every=20,
            eval_every=200,
            checkpoint_every=200,
        ),
        evaluation=Evaluation(num_times=2, batch_size=64, max_sequences=256),
    )
