"""RADD: a masked model without time, trained on its likelihood in random order (k-DCE).

    python -m experiments.train --config configs/sotu/radd.py --workdir runs/radd

mdlm.py's model and budget with another of RADD's four losses, which are equal in the mean:
`--set process.objective=lambda_dce`, `t_dce` or `t_dse` for the others. About four minutes on two CPU
cores.

Measured: bound 2.418 +- 0.009 bits per character.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.radd import RADD
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(base, process=RADD(schedule=mdlm.PROCESS.schedule, objective="k_dce"))
