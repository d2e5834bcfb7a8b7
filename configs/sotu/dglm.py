"""DGLM: a diffusion plans the embedding of the text, and an autoregressive decoder writes it.

    python -m experiments.train --config configs/sotu/autoregressive.py --workdir runs/ar
    python -m experiments.train --config configs/sotu/dglm.py --workdir runs/dglm --set init_from=runs/ar
    python -m experiments.sample --workdir runs/dglm --prompt "the state of"

init_from is the encoder, whose hidden states are averaged and which never changes: any run of tokens, or
an imported BERT, whose tokenizer this run then has too. The decoder begins with the same parameters as
far as they fit. Its heads begin by looking at near positions, from which a soft prompt may be far
(docs/methods/dglm.md), so a vector made of the plan is added to each token besides; `--set
model.everywhere=False` is as published. Guidance by a classifier of embeddings:
configs/sotu/dglm_classifier.py.

It has no bound. At strength 16 a separate classifier finds the period in 0.453 of the samples, in 0.484
of real text, and in 0.25 by chance (docs/measurements.md).
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.dglm import DGLM
from experiments.config import Experiment
from models.planned import PlannedTransformer
from samplers.plan_and_write import PlanAndWrite


def get_config() -> Experiment:
    return replace(
        mdlm.get_config(),
        process=DGLM(),
        model=PlannedTransformer(mdlm.MODEL, everywhere=True),
        sampler=PlanAndWrite(),
        init_model="run",
    )
