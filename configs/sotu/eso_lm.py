"""Eso-LM: half of the tokens by masked diffusion, the rest from left to right.

    python -m experiments.train --config configs/sotu/eso_lm.py --workdir runs/eso_lm

`--set process.alpha_0=` is the share by diffusion: 1 is MDLM, 0 an autoregressive model. A sample takes
the sampler's steps and then a call for each token that is left. On the embedded corpus, with mdlm.py's
model and budget: about four minutes on two CPU cores.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.eso_lm import EsoLM
from experiments.config import Experiment
from samplers.two_phase import TwoPhase


def get_config() -> Experiment:
    return replace(
        mdlm.get_config(), process=EsoLM(mdlm.PROCESS, alpha_0=0.5), sampler=TwoPhase(steps=64)
    )
