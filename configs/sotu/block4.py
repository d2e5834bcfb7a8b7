"""Block diffusion in blocks of 4 on the embedded corpus, of the size and budget of configs/sotu/mdlm.py.

    python -m experiments.train --config configs/sotu/block4.py --workdir runs/block4

A step passes twice the positions of MDLM's through the network, [z ; x0]. Other blocks: `--set
process.block_length=16`. Measured on text8-first74M: docs/measurements.md.

Measured: bound 2.097 +- 0.009 bits per character, three seeds.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.block import BlockDiffusion
from experiments.config import Experiment
from samplers.ancestral import Ancestral
from samplers.blocks import BlockByBlock


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=BlockDiffusion(mdlm.PROCESS, block_length=4),
        sampler=BlockByBlock(Ancestral(steps=4)),
    )
