"""A token weight of one's own: a small loss counts less.

ddlm train --config tests/extension/token_weight.py --workdir runs/own-token-weight
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp

from configs import smoke
from experiments.token_weights.token_weight import TokenWeight


@dataclass(frozen=True)
class Hard(TokenWeight):
    """(1 - exp(-nats))^power; power: how much less."""

    power: float = 2.0

    def __call__(self, x0, nats, reference=None):
        return (1 - jnp.exp(-nats)) ** self.power


def get_config():
    base = smoke.get_config()
    return replace(base, train=replace(base.train, token_weight=Hard()))
