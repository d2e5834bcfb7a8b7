"""Linear flow matching on the simplex: the baseline of Dirichlet flow matching.

    python -m experiments.train --config configs/sotu/linear_flow.py --workdir runs/linear_flow

On the embedded corpus, with mdlm.py's model (and the time) and budget: about
five minutes on two CPU cores. It has no likelihood bound
(`diffusion/linear_flow.py` says why), only samples.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.linear_flow import LinearFlow
from experiments.config import Experiment
from samplers.ode import ODE


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=LinearFlow(),
        sampler=ODE(steps=128, grid="uniform"),
        model=replace(base.model, time_conditioning=True),
    )
