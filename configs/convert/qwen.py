"""Qwen becomes a masked model at once, as A2D of dllm (arXiv 2602.22661): full attention, no shift.

    python -m experiments.import Qwen/Qwen3-0.6B-Base --workdir runs/qwen3
    python -m experiments.train --config configs/convert/qwen.py --workdir runs/qwen3-masked \\
        --set data.path=data/openwebtext --set init_from=runs/qwen3

The network and the tokenizer are those of the run of init_from. Dream (arXiv 2508.15487) keeps the
shift: --set model.shifted=True. Not yet trained with this code.
"""

from dataclasses import replace

from configs.convert import gpt2
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from models.transformer import Transformer


def get_config() -> Experiment:
    base = gpt2.get_config()
    schedule = WarmupCosine(peak_lr=1e-4, warmup_steps=1000, decay_steps=50_000, final_lr=1e-5)
    return replace(
        base,
        model=Transformer(scan=True, remat=True),
        optimizer=AdamW(schedule, beta2=0.95, weight_decay=0.1),
        train=replace(base.train, num_steps=50_000, attention_annealing=0),
    )
