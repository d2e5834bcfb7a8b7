"""Duo: uniform noise with a curriculum from normal noise, for the first half of training.

    python -m experiments.train --config configs/sotu/duo.py --workdir runs/duo

After the curriculum, and in evaluation and sampling, the same as udlm.py. gamma is where
alpha goes from 0.95 to 0.05, as published for 50,258 tokens. On the embedded corpus, with
mdlm.py's model (and the time) and budget: about seven minutes on two CPU cores. Compared with udlm.py,
and not told from it by three seeds: docs/measurements.md.
"""

from dataclasses import replace

from configs.sotu import udlm
from diffusion.duo import Duo
from experiments.config import Experiment


def get_config() -> Experiment:
    base = udlm.get_config()
    half = base.train.num_steps // 2
    return replace(base, process=Duo(curriculum_steps=half, gamma_min=-2.7, gamma_max=1.6))
