"""The shape on which speed is compared: 6 layers x 384, length 256, batch 16; not a run worth training.

    python -m experiments.studies.benchmark

Figures: docs/measurements.md.
"""

from diffusion.mdlm import MDLM
from experiments.config import Experiment, Train
from experiments.data.text import Text
from models.transformer import Transformer


def get_config() -> Experiment:
    return Experiment(
        process=MDLM(),
        model=Transformer(num_layers=6, width=384, num_heads=6),
        data=Text(length=256),
        train=Train(batch_size=16),
    )
