"""The autoregressive yardstick on text8: the network of configs/text8/mdlm.py, with causal attention.

    python -m experiments.train --config configs/text8/autoregressive.py \\
        --workdir runs/text8-ar --set data.path=data/text8

Half the steps of MDLM, as the published comparisons do, since every token gives a gradient in every
step. Data and device as in configs/text8/mdlm.py. Published, bits per character on the test split: 1.23
(12 layers; quoted in D3PM, SEDD and MD4). Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.autoregressive import Autoregressive
from experiments.config import Experiment
from samplers.autoregressive import LeftToRight


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=Autoregressive(),
        sampler=LeftToRight(),
        optimizer=replace(
            base.optimizer, schedule=replace(base.optimizer.schedule, decay_steps=500_000)
        ),
        train=replace(base.train, num_steps=500_000),
    )
