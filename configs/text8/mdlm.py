"""MDLM on text8: 12 layers x 768, length 256, batch 512, 1 M steps.

    python -m experiments.train --config configs/text8/mdlm.py --workdir runs/text8-mdlm \\
        --set data.path=data/text8

data/text8 is the 100,000,000 characters of text8 (or text8.zip), cut at 90 M, 95 M and 100 M. Device:
accelerators; `--set train.accumulation=4` where 128 sequences fit. Published: at most 1.40 bits per
character on the test split (quoted for MDLM by EDLM, arXiv 2410.21357). Not yet trained with this code.
"""

from diffusion.mdlm import MDLM
from experiments.config import Evaluation, Experiment, Train
from experiments.data.text import Text
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from models.transformer import Transformer
from samplers.first_hitting import FirstHitting

PROCESS = MDLM()
MODEL = Transformer(num_layers=12, width=768, num_heads=12, dropout=0.05)


def get_config() -> Experiment:
    return Experiment(
        process=PROCESS,
        model=MODEL,
        data=Text(
            path="data/text8", length=256, split_points=(90_000_000, 95_000_000, 100_000_000)
        ),
        sampler=FirstHitting(steps=256),
        optimizer=AdamW(WarmupCosine(peak_lr=3e-4, warmup_steps=2000, decay_steps=1_000_000)),
        train=Train(num_steps=1_000_000, batch_size=512, ema_decay=0.9999),
        evaluation=Evaluation(num_times=8, batch_size=64, max_sequences=2048),
    )
