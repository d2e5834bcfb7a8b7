"""Frames of every kind of process: the last is the sample. Of masks: tests/test_ranking.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.ar_diffusion import ARDiffusion
from diffusion.bfn import BFN
from diffusion.difformer import Difformer
from diffusion.dirichlet import DirichletFlow
from diffusion.embedding_flow import FLM
from diffusion.genmd4 import GenMD4
from diffusion.kernels import Uniform
from diffusion.plaid import Plaid
from diffusion.schedules import Geometric, Linear, RescaledSchedule
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from samplers.ancestral import Ancestral
from samplers.euler import Euler, TauLeaping
from samplers.mean_ancestral import MeanAncestral
from samplers.ode import ODE
from samplers.posterior import Posterior
from samplers.tweedie import Tweedie

LOOSE = RescaledSchedule(Linear(), 0.2)
UNIFORM = SEDD(6, Uniform(), Geometric(0.3, 5.0))
ENDS = [
    *((s, UNIFORM) for s in (Ancestral(3), Euler(3), TauLeaping(3), Tweedie(3), Posterior(3))),
    *((s, SEDD(6, schedule=LOOSE)) for s in (Euler(3), Tweedie(3))),
    (Euler(3), UDLM(6)), (TauLeaping(3), GenMD4(6)), (Ancestral(3), BFN(6)),
    (Ancestral(3), DirichletFlow(6)), (ODE(3), DirichletFlow(6)), (MeanAncestral(3), Plaid(6)),
    (MeanAncestral(3), ARDiffusion(6)),
    (MeanAncestral(3, rounding="last", end=0.2), Difformer(6)),
    (ODE(3, grid="uniform"), FLM(6)),
]  # fmt: skip


@pytest.mark.representatives("Tweedie", "BFN", "ODE", "Plaid")
@pytest.mark.parametrize("sampler, process", ENDS, ids=lambda v: repr(v)[:45])
def test_frames_end_in_the_sample(sampler, process):
    """Also where rates have not been followed to the end, and where a schedule leaves noise at t = 0."""
    model = lambda z, t: jnp.zeros((*z.shape[:2], 6))  # noqa: E731
    given = jnp.full((40, 5), -1).at[:, 2].set(3)
    keys = jax.random.split(jax.random.key(0), 40)

    @jax.jit  # one program, which is cheaper to compile than two
    def both(keys):
        traced = sampler.run(keys, process, model, (40, 5), given, trace=True)
        return traced, sampler.sample(keys, process, model, (40, 5), given)

    (x0, _, frames), plain = both(keys)
    np.testing.assert_array_equal(frames.tokens[-1], x0)
    np.testing.assert_array_equal(plain, x0)
