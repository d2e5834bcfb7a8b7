"""An autoregressive model on LM1B in sentences: as configs/lm1b/mdlm.py, from left to right.

    python -m experiments.train --config configs/lm1b/autoregressive.py --workdir runs/lm1b-ar \\
        --set data.path=data/lm1b --set data.tokenizer.path=data/bert/vocab.txt

Protocols as there. Published: perplexity per token 22.32 in sentences (MDLM), 22.83 wrapped (BD3-LM).
Not yet trained at this size with this code; a small one: docs/measurements.md.
"""

from dataclasses import replace

from configs.lm1b import mdlm
from diffusion.autoregressive import Autoregressive
from experiments.config import Experiment
from samplers.autoregressive import LeftToRight


def get_config() -> Experiment:
    return replace(mdlm.get_config(), process=Autoregressive(), sampler=LeftToRight())
