"""FlexMDM: masked diffusion with insertion, on pieces of text of any length up to 64.

    python -m experiments.train --config configs/sotu/flex_mdm.py --workdir runs/flex

quickstart.py's network, with the time as input, and its recipe, on the embedded corpus cut into pieces
of 1 to 64 letters (data.rows = piece), whose length is part of what is modelled. Half of the rows are
trained to fill in blanks of unknown length amid known text (process.infilling):
`ddlm sample --template "we * the people" --stretch "*"` (docs/methods/flex_mdm.md).
"""

from dataclasses import replace

from configs.sotu import quickstart
from diffusion.flex_mdm import FlexMDM
from experiments.config import Experiment
from experiments.optimization.linear import Linear
from experiments.optimization.muon import Muon
from experiments.time_weights.as_bound import AsBound
from models.insertion import InsertionTransformer
from samplers.insertion import Insertion


def get_config() -> Experiment:
    base = quickstart.get_config()
    return replace(
        base,
        process=FlexMDM(infilling=0.5),
        model=InsertionTransformer(
            num_layers=4,
            width=128,
            num_heads=4,
            time_conditioning=True,
            qk_norm=True,
            attention_bias="near",
            rotary_base=100.0,
        ),
        data=replace(base.data, length=64, rows="piece"),
        sampler=Insertion(steps=64),
        optimizer=Muon(Linear(peak_lr=7e-3, warmup_steps=50, decay_steps=1000), beta2=0.99),
        train=replace(base.train, batch_size=32, time_weight=AsBound()),
    )
