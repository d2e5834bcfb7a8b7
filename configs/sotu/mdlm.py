"""MDLM on the embedded State of the Union addresses, 4 layers x 128, length 128.

    python -m experiments.train --config configs/sotu/mdlm.py --workdir runs/a

The other methods here are compared with it: they take its network, its recipe and its budget, some four
minutes on two CPU cores. Muon takes the matrices, and heads begin by looking at their neighbours; what
each part gives: docs/measurements.md. The schedule 1 - cos(pi t / 2) spends more of its time where few
tokens are masked than a linear one, and learns faster at this size; the bound it estimates is the same
quantity. For a longer run raise train.num_steps and optimizer.schedule.decay_steps together.

Measured: bound 2.371 +- 0.011 bits per character, three seeds.
"""

from diffusion.mdlm import MDLM
from diffusion.schedules import MDLMCosine
from experiments.config import Evaluation, Experiment, Train
from experiments.data.text import Text
from experiments.optimization.linear import Linear
from experiments.optimization.muon import Muon
from models.transformer import Transformer
from samplers.ancestral import Ancestral

PROCESS = MDLM(schedule=MDLMCosine())
MODEL = Transformer(
    num_layers=4, width=128, num_heads=4, qk_norm=True, attention_bias="near", rotary_base=100.0
)


def get_config() -> Experiment:
    return Experiment(
        process=PROCESS,
        model=MODEL,
        data=Text(length=128),
        sampler=Ancestral(steps=128),
        optimizer=Muon(Linear(peak_lr=7e-3, warmup_steps=50, decay_steps=1000), beta2=0.99),
        train=Train(
            num_steps=1000,
            batch_size=16,
            ema_decay=0.99,
            log_every=50,
            eval_every=500,
            checkpoint_every=500,
        ),
        evaluation=Evaluation(num_times=2, batch_size=64, max_sequences=256),
    )
