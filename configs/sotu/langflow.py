"""LangFlow: diffusion on learned embeddings of the letters, trained by cross entropy.

    python -m experiments.train --config configs/sotu/langflow.py --workdir runs/langflow

Each ingredient is a setting: `process.head=posterior` (nothing added of what a letter's own vector
says), `process.self_conditioning=0`, `process.schedule=LinearLogSNR`. Embeddings are 16 wide, as
Plaid's; the published noise, of 768 numbers and 50,257 tokens, is moved to where 27 letters are told
apart. On the embedded corpus, with mdlm.py's model (and the time) and budget.

Measured: bound 2.712 +- 0.033 bits per character, three seeds.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.embedding_flow import GumbelLogSNR, LangFlow
from diffusion.gaussian import LearnedEmbeddings
from experiments.config import Experiment
from samplers.ode import ODE


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=LangFlow(embedding=LearnedEmbeddings(16), schedule=GumbelLogSNR(loc=2.0)),
        model=replace(base.model, time_conditioning=True),
        sampler=ODE(steps=128, grid="uniform"),
    )
