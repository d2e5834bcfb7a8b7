"""SEDD on the uniform graph, free score head, geometric noise.

    python -m experiments.train --config configs/text8/sedd_uniform.py \\
        --workdir runs/text8-sedd_uniform --set data.path=data/text8

text8: 12 layers x 768, length 256, batch 512, 1 M steps. Settings of the official code (small model),
length 256. Data and device as in configs/text8/mdlm.py. Published, bits per character on the test
split: at most 1.47. Not yet trained with this code.
"""

from dataclasses import replace

from configs.text8 import sedd_absorbing
from diffusion.kernels import Uniform
from diffusion.schedules import Geometric
from diffusion.sedd import SEDD
from experiments.config import Experiment


def get_config() -> Experiment:
    return replace(
        sedd_absorbing.get_config(), process=SEDD(kernel=Uniform(), schedule=Geometric(1e-5, 20.0))
    )
