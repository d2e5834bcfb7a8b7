"""MDLM on OpenWebText for a pod: 16 layers x 2048, 1.01 B parameters, batch 1024 x 1024, 100 k steps.

    python -m experiments.plan --config configs/scale/mdlm_1b.py --topology v5e:16x16
    python -m experiments.train --config configs/scale/mdlm_1b.py --workdir runs/mdlm-1b \\
        --set data.path=data/openwebtext --set data.tokenizer.path=data/gpt2

The state, 16 GB, is spread over 16 chips, and the batch over all. 105 G tokens. Plans for 256 and 512
chips: docs/pods.md. Not yet trained with this code.
"""

from dataclasses import replace

from configs.scale import mdlm_100m
from experiments.config import Experiment, Mesh
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine


def get_config() -> Experiment:
    base = mdlm_100m.get_config()
    return replace(
        base,
        model=replace(base.model, num_layers=16, width=2048, num_heads=16, qk_norm=True),
        optimizer=AdamW(
            WarmupCosine(peak_lr=3e-4, warmup_steps=2000, decay_steps=100_000, final_lr=3e-5),
            beta2=0.95,
            weight_decay=0.1,
        ),
        train=replace(base.train, num_steps=100_000, batch_size=1024),
        mesh=Mesh(data=-1, fsdp=16),
    )
