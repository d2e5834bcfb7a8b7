"""Block diffusion on text8 in blocks of 4, begun from a trained MDLM.

    python -m experiments.train --config configs/text8/block4.py --workdir runs/text8-block4 \\
        --set data.path=data/text8 --set init_from=runs/text8-mdlm

As published for LM1B: 850 thousand steps of MDLM, then 150 thousand of blocks, with times clipped to
[0.45, 0.95] (arXiv 2503.09573, table 8; `python -m experiments.studies.gradient_noise` measures it for a
run). Without init_from it trains from scratch. `--set process.block_length=16 --set
process.clip=0.3,0.8` for blocks of 16. No text8 figure is published. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.block import BlockDiffusion
from experiments.config import Experiment
from samplers.ancestral import Ancestral
from samplers.blocks import BlockByBlock


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=BlockDiffusion(mdlm.PROCESS, block_length=4, clip=(0.45, 0.95)),
        sampler=BlockByBlock(Ancestral(steps=4)),
        optimizer=replace(
            base.optimizer, schedule=replace(base.optimizer.schedule, decay_steps=150_000)
        ),
        train=replace(base.train, num_steps=150_000),
    )
