"""MDLM on the embedded State of the Union addresses, by the fastest recipe found: the quickstart.

    python -m experiments.train --config configs/sotu/quickstart.py --workdir runs/a

As much time as `configs/sotu/mdlm.py`, which is what the other methods are compared with: about four
minutes on two CPU cores. What each part of the recipe gives: docs/measurements.md. Muon takes the
matrices; heads begin by looking at their neighbours; times with few masks count less than in the bound.
For a longer run raise train.num_steps and optimizer.schedule.decay_steps together.

Measured: bound 2.347 +- 0.009 bits per character.
"""

from dataclasses import replace

from configs.sotu import mdlm
from experiments.config import Experiment
from experiments.optimization.linear import Linear
from experiments.optimization.muon import Muon
from experiments.time_weights.tempered import Tempered


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        model=replace(base.model, qk_norm=True, attention_bias="near", rotary_base=100.0),
        optimizer=Muon(Linear(peak_lr=7e-3, warmup_steps=50, decay_steps=1000), beta2=0.99),
        train=replace(
            base.train,
            num_steps=1000,
            batch_size=16,
            time_weight=Tempered(power=0.5),
            log_every=50,
            eval_every=500,
            checkpoint_every=500,
        ),
    )
