"""A model of 18 thousand parameters on the embedded corpus, for tests and for trying out settings.

    python -m experiments.train --config configs/smoke.py --workdir runs/smoke

Seconds on any CPU; learns little more than the frequencies of letters.
"""

from diffusion.mdlm import MDLM
from experiments.config import Evaluation, Experiment, Train
from experiments.data.text import Text
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from models.transformer import Transformer
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    return Experiment(
        process=MDLM(),
        model=Transformer(num_layers=2, width=32, num_heads=2, mlp_ratio=2, dropout=0.1),
        data=Text(length=32),
        sampler=Ancestral(steps=8),
        optimizer=AdamW(WarmupConstant(peak_lr=3e-3, warmup_steps=10)),
        train=Train(
            num_steps=40,
            batch_size=16,
            ema_decay=0.99,
            log_every=10,
            eval_every=20,
            checkpoint_every=10,
        ),
        evaluation=Evaluation(num_times=2, batch_size=64, max_sequences=128),
    )
