"""MDLM on OpenWebText's protocol for a pod: 32 layers x 4096, 7.93 B parameters, batch 2048 x 1024.

    python -m experiments.plan --config configs/scale/mdlm_8b.py --topology v5e:16x16
    python -m experiments.train --config configs/scale/mdlm_8b.py --workdir runs/mdlm-8b \\
        --set data.path=data/openwebtext --set data.tokenizer.path=data/gpt2

The state, 127 GB, is spread over 256 chips, and so is the batch. 500 k steps are 1.05 T tokens, for
which OpenWebText (9 G) is a stand-in. Plans for 256 and 512 chips: docs/pods.md. Not yet trained with
this code.
"""

from dataclasses import replace

from configs.scale import mdlm_1b
from experiments.config import Experiment, Mesh


def get_config() -> Experiment:
    base = mdlm_1b.get_config()
    return replace(
        base,
        model=replace(base.model, num_layers=32, width=4096, num_heads=32, mlp_ratio=5.0),
        optimizer=replace(
            base.optimizer,
            schedule=replace(
                base.optimizer.schedule, peak_lr=2e-4, decay_steps=500_000, final_lr=2e-5
            ),
        ),
        train=replace(base.train, num_steps=500_000, batch_size=2048),
        mesh=Mesh(data=-1, fsdp=256),
    )
