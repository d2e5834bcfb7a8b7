"""A sampler of one's own: ancestral steps that draw x0 from the squared, renormalised distribution.

ddlm train --config tests/extension/sampler.py --workdir runs/own-sampler
ddlm sample --config tests/extension/sampler.py --workdir runs/own-sampler
"""

from dataclasses import dataclass, replace

from configs import smoke
from diffusion.random import categorical, split
from samplers.sampler import Compatibility, GridSampler


@dataclass(frozen=True)
class Squared(GridSampler):
    """`steps` calls of the network."""

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "approximate", "x0 is drawn from p squared"
        )

    def step(self, key, process, model, z, t, s):
        key_draw, key_bridge = split(key)
        x0 = categorical(key_draw, 2 * process.predict(model(z, t), z, t))
        return process.bridge(key_bridge, x0, z, t, s), x0


def get_config():
    return replace(smoke.get_config(), sampler=Squared(steps=8))
