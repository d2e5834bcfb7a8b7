"""AR-Diffusion: noise on learned embeddings of the letters that leaves the left of a text first.

    python -m experiments.train --config configs/sotu/ar_diffusion.py --workdir runs/ar-diffusion

The published loss and clock; `process.objective=bound` trains on the bound, `process.token_steps` says
how far tokens go one after the other. Few steps of generation (skipping): `sample --steps 20`, and their
bound: `--set process.num_steps=20` in `evaluate`. On the embedded corpus, with mdlm.py's model (and the
time of each position) and budget. Not yet trained.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.ar_diffusion import ARDiffusion
from experiments.config import Experiment
from samplers.mean_ancestral import MeanAncestral


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=ARDiffusion(),
        model=replace(base.model, time_conditioning=True),
        sampler=MeanAncestral(steps=256),
    )
