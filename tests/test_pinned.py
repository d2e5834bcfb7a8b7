"""Losses, bounds and samples for one key, as they are: a change of structure changes none of them.

`python tests/test_pinned.py` writes the file anew, for a change that is meant to change a number.
"""

import json

import conftest  # settings of the compiler, before jax is imported by the rest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.ar_diffusion import ARDiffusion
from diffusion.autoregressive import Autoregressive
from diffusion.bfn import BFN
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.difformer import Difformer
from diffusion.dirichlet import DirichletFlow
from diffusion.edlm import EDLM
from diffusion.embedding_flow import FLM, LangFlow
from diffusion.gaussian import LearnedEmbeddings
from diffusion.genmd4 import GenMD4
from diffusion.gidd import GIDD
from diffusion.kernels import Uniform
from diffusion.linear_flow import LinearFlow
from diffusion.mdlm import MDLM
from diffusion.plaid import Plaid
from diffusion.schedules import Geometric
from diffusion.sedd import SEDD
from diffusion.spindle import Spindle
from diffusion.udlm import UDLM
from models.backbone import Network
from models.energy import EnergyTransformer
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.first_hitting import FirstHitting
from samplers.mean_ancestral import MeanAncestral
from samplers.ode import ODE
from samplers.posterior import Posterior
from samplers.remask import ReMDM
from samplers.tweedie import Tweedie

V, L, B = 5, 8, 3
FILE = conftest.GOLDEN / "pinned.json"
CASES = {
    "mdlm": (MDLM(V), Ancestral(4)),
    "mdlm remasked": (MDLM(V), ReMDM(4, eta=0.3)),
    "mdlm hit": (MDLM(V), FirstHitting()),
    "d3pm": (D3PM(V, Uniform(), num_steps=20), Posterior(4)),
    "sedd": (SEDD(V), Tweedie(4)),
    "sedd uniform": (SEDD(V, Uniform(), Geometric()), Ancestral(4)),
    "udlm": (UDLM(V), Ancestral(4)),
    "gidd": (GIDD(V), Ancestral(4)),
    "genmd4": (GenMD4(V), Ancestral(4)),
    "spindle": (Spindle(V, unigram=(5.0, 4.0, 3.0, 2.0, 1.0)), Ancestral(4)),
    "bfn": (BFN(V), Ancestral(4)),
    "dirichlet": (DirichletFlow(V, bound_steps=2), ODE(4)),
    "linear flow": (LinearFlow(V), ODE(4)),
    "plaid": (Plaid(V, LearnedEmbeddings(4)), MeanAncestral(4)),
    "ar diffusion": (ARDiffusion(V, LearnedEmbeddings(4)), MeanAncestral(4)),
    "difformer": (Difformer(V, LearnedEmbeddings(4, "layer")), MeanAncestral(4, rounding="last")),
    "langflow": (LangFlow(V, LearnedEmbeddings(4)), ODE(4)),
    "flm": (FLM(V), ODE(4)),
    "autoregressive": (Autoregressive(V), LeftToRight()),
    "block": (BlockDiffusion(MDLM(V)), BlockByBlock(Ancestral(4))),
    "edlm": (EDLM(MDLM(V)), Ancestral(4)),
}


def measured(name):
    """{"loss": nats, "bound": nats or None, "sample": tokens} of a case."""
    process, sampler = CASES[name]
    attention = {"autoregressive": 1, "block": 4}.get(name)
    model = Transformer(
        V, 2, 16, 2, time_conditioning=True, condition_width=8, block_length=attention,
        vector_width=process.traits.vector_width,
    )  # fmt: skip
    params = jax.tree.map(lambda p: p + 0.1, model.init(jax.random.key(0)))
    energy = None
    if name == "edlm":
        second = EnergyTransformer(model)
        energy = Network(second, second.init(jax.random.key(3)))
    network = Network(model, params, energy=energy)
    process = process.bind(process.init(jax.random.key(1)))
    network = process.wrapped(network)
    keys = jax.random.split(jax.random.key(2), B)
    x0 = jax.random.randint(jax.random.key(4), (B, L), 0, V)
    u = (jnp.arange(B)[:, None] + 0.4) / B
    loss = jax.jit(lambda: process.loss(keys, network, x0, u).sum())()
    bound = None
    if name != "linear flow":
        bound = float(jax.jit(lambda: process.bound(keys, network, x0, u).sum())())
    sample = jax.jit(lambda: sampler.sample(keys, process, network, (B, L)))()
    return {"loss": float(loss), "bound": bound, "sample": np.asarray(sample).tolist()}


@pytest.mark.representatives(
    "mdlm", "d3pm", "sedd uniform", "udlm", "bfn", "block", "autoregressive", "plaid"
)
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_what_they_were(name):
    pinned, now = json.loads(FILE.read_text())[name], measured(name)
    for kind in ("loss", "bound"):
        if pinned[kind] is not None:
            assert now[kind] == pytest.approx(pinned[kind], rel=1e-5)
    assert now["sample"] == pinned["sample"]


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: measured(name) for name in CASES}, indent=1) + "\n")
