"""The toy of Dirichlet flow matching (arXiv 2402.05841): python -m experiments.simplex_toy --out DIR

Four positions of K tokens each, independent, every position with a law softmax(U[0, 1]^K) of its own;
every batch is drawn afresh. A network is trained by linear and by Dirichlet flow matching for every K and
sampled by 20 steps of the ODE, evenly in t or in the concentration 1 to 8. What is measured is
KL(samples || target) in nats, the mean over positions, beside what as many exact draws would give,
(K - 1) / 2N. As the paper has it; its network is a CNN of 5 layers of 128 channels, ours the transformer,
and it takes the most probable token at the end where the sampler here draws one.

Writes DIR/simplex_toy.json and DIR/simplex_toy.png.
"""

import io
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.dirichlet import DirichletFlow
from diffusion.linear_flow import LinearFlow
from diffusion.random import categorical
from experiments import cli
from experiments.config import AdamW, Experiment, Train
from experiments.errors import Diverged, UserError
from experiments.files import write_atomically
from experiments.settings import encode
from experiments.train_step import init_state, make_train_step, zero_totals
from models.transformer import Transformer
from samplers.ode import ODE
from samplers.sampler import sample

LENGTH = 4
METHODS = {
    "linear": (LinearFlow(), ODE(steps=20, grid="uniform")),
    "Dirichlet": (DirichletFlow(scale=2.0), ODE(steps=20)),
}
_CHUNK = 100  # training steps in one call of the compiled program
_ROWS = 5_000  # sequences sampled at a time
_REPEATS = 100  # of the exact draws
