"""FlexMDM: masked diffusion with insertion, on pieces of text of any length up to 64.

    python -m experiments.train --config configs/sotu/flex_mdm.py --workdir runs/flex

mdlm.py's network, with the time as input, and its recipe with twice the rows, on the embedded corpus
cut into pieces of 1 to 64 letters (data.rows = piece), whose length is part of what is modelled. Half
of the rows are trained to fill in blanks of unknown length amid known text (process.infilling):
`ddlm sample --template "we * the people" --stretch "*"` (docs/methods/flex_mdm.md).

Measured: bound 3.400 +- 0.044 bits per character, length included, of pieces of 1 to 64 letters.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.flex_mdm import FlexMDM
from experiments.config import Experiment
from models.insertion import InsertionTransformer
from samplers.insertion import Insertion


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=FlexMDM(infilling=0.5),
        model=replace(InsertionTransformer(**vars(mdlm.MODEL)), time_conditioning=True),
        data=replace(base.data, length=64, rows="piece"),
        sampler=Insertion(steps=64),
        train=replace(base.train, batch_size=32),
    )
