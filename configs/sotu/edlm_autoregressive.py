"""EDLM with an autoregressive model as the energy of a trained MDLM; nothing is trained.

    python -m experiments.train --config configs/sotu/mdlm.py --workdir runs/base
    python -m experiments.train --config configs/sotu/autoregressive.py --workdir runs/ar
    python -m experiments.train --config configs/sotu/edlm_autoregressive.py --workdir runs/edlm-ar \\
        --set init_from=runs/base --set energy_from=runs/ar

The last command puts both networks into one run, in seconds. Measured on text8-first74M:
docs/measurements.md.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.edlm import EDLMAutoregressive
from experiments.config import Experiment
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=EDLMAutoregressive(mdlm.PROCESS, candidates=4, num_steps=16),
        energy=replace(base.model, block_length=1),
        sampler=Ancestral(steps=16),
        train=replace(base.train, num_steps=0),
    )
