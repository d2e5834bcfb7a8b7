"""GenMD4: masked diffusion that learns when to mask each letter.

    python -m experiments.train --config configs/text8/genmd4.py \\
        --workdir runs/text8-genmd4 --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official text8 config: AdaLN
time conditioning, gated MLP, no clipping. Data and device as in configs/text8/mdlm.py. Published,
bits per character on the test split: at most 1.34. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import md4
from diffusion.genmd4 import GenMD4
from experiments.config import Experiment
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    return replace(md4.get_config(), process=GenMD4(eps=1e-4), sampler=Ancestral(steps=256))
