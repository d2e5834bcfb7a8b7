"""Dirichlet flow matching on text8.

    python -m experiments.train --config configs/text8/dirichlet.py \\
        --workdir runs/text8-dirichlet --set data.path=data/text8

The model and budget of configs/text8/mdlm.py. There is no published run on text8: the paper (arXiv
2402.05841) is on DNA. Not yet trained with this code. The bound solves an ODE for each sequence:
`evaluate --max-sequences 512`.
"""

from dataclasses import replace

from configs.text8 import mdlm
from diffusion.dirichlet import DirichletFlow
from experiments.config import Experiment
from samplers.ode import ODE


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=DirichletFlow(),
        sampler=ODE(steps=256),
        model=replace(base.model, time_conditioning=True),
    )
