"""EDLM on text8 with a trained autoregressive model as the energy of a trained MDLM.

    python -m experiments.train --config configs/text8/edlm_autoregressive.py \\
        --workdir runs/text8-edlm-ar --set data.path=data/text8 \\
        --set init_from=runs/text8-mdlm --set energy_from=runs/text8-ar

Nothing is trained: both networks are put into one run. Not yet done with this code.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.edlm import EDLMAutoregressive
from experiments.config import Experiment
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=EDLMAutoregressive(mdlm.PROCESS, candidates=2, window=0.2, num_steps=64),
        energy=replace(base.model, block_length=1),
        sampler=Ancestral(steps=64),
        train=replace(base.train, num_steps=0),
    )
