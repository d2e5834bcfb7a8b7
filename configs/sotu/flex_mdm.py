"""FlexMDM: masked diffusion with insertion, on pieces of text of any length up to 128.

    python -m experiments.train --config configs/sotu/flex_mdm.py --workdir runs/flex

mdlm.py's network and budget, with the time as input, on the embedded corpus cut into pieces of 1 to 128
letters (data.rows = piece), whose length is part of what is modelled. `ddlm sample --template` fills in
blanks of unknown length (docs/methods/flex_mdm.md).
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
        process=FlexMDM(),
        model=InsertionTransformer(num_layers=4, width=128, num_heads=4, time_conditioning=True),
        data=replace(base.data, rows="piece"),
        sampler=Insertion(steps=128),
    )
