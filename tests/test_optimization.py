"""Optimisers, learning rates, weights of tokens and times, by themselves and in the training step."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.smoke import get_config
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear as LinearSchedule
from diffusion.schedules import MDLMCosine, masked_weight
from diffusion.udlm import UDLM
from experiments.data.tokenizers import Letters27
from experiments.optimization.adamw import AdamW
from experiments.optimization.linear import Linear
from experiments.optimization.muon import Muon
from experiments.optimization.warmup_constant import WarmupConstant
from experiments.optimization.warmup_cosine import WarmupCosine
from experiments.optimization.warmup_stable_decay import WarmupStableDecay
from experiments.overrides import resolve
from experiments.renames import renamed
from experiments.serialization import decode, encode
from experiments.time_weights.tempered import Tempered
from experiments.time_weights.time_weight import TimeWeight
from experiments.token_weights.token_weight import TokenWeight
from experiments.training.train_step import init_state, make_train_step
from models.roles import Matrix, Table, Vector


@pytest.mark.parametrize(
    "schedule, rates",
    [
        (WarmupConstant(1.0, 4), {0: 0.25, 3: 1, 4: 1, 999: 1}),
        (WarmupConstant(1.0, 0), {0: 1, 999: 1}),
        (WarmupCosine(1.0, 4, 104, 0.1), {0: 0.25, 4: 1, 54: 0.55, 104: 0.1, 999: 0.1}),
        (Linear(1.0, 4, 104, 0.2), {0: 0.25, 4: 1, 54: 0.6, 104: 0.2, 999: 0.2}),
        (WarmupStableDecay(1.0, 4, 54, 104, 0.5), {0: 0.25, 4: 1, 54: 1, 79: 0.75, 104: 0.5}),
        (WarmupStableDecay(1.0, 4, 4, 8), {3: 1, 4: 1, 6: 0.5, 8: 0}),
    ],
)
def test_rates(schedule, rates):
    rate = schedule.build()
    found = {step: float(rate(step)) for step in rates}
    assert found == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: WarmupCosine(1.0, 10, 10), "decay_steps = 10 must exceed warmup_steps = 10"),
        (lambda: Linear(1.0, 10, 5), "must exceed"),
        (lambda: WarmupStableDecay(1.0, 10, 5, 20), "must rise"),
        (lambda: WarmupConstant(-1.0), "WarmupConstant.peak_lr = -1.0 must not be negative"),
        (lambda: AdamW(beta2=1.0), r"AdamW.beta2 = 1.0 is outside \[0, 1\)"),
        (lambda: Muon(momentum=1.0), r"Muon.momentum = 1.0 is outside \[0, 1\)"),
        (lambda: Muon(clip_norm=0.0), "Muon.clip_norm = 0.0 must be positive"),
        (lambda: Muon(iterations=0), "at least 1"),
    ],
)
def test_mistakes_are_said_at_construction(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_muon_makes_each_stacked_matrix_orthogonal_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    params = {
        "layers": {"up": {"kernel": jnp.zeros((3, 8, 16))}, "norm": {"scale": jnp.ones((3, 8))}},
        "ends": {"embedding": jnp.zeros((5, 8)), "head": {"kernel": jnp.zeros((8, 5))}},
    }
    roles = {
        "layers": {"up": {"kernel": Matrix()}, "norm": {"scale": Vector()}},
        "ends": {"embedding": Table(), "head": {"kernel": Matrix(hidden=False)}},
    }
    scales = {"up": np.array([1e-3, 1.0, 1e3])[:, None, None]}
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    grads["layers"]["up"]["kernel"] *= jnp.asarray(scales["up"], jnp.float32)
    settings = {"schedule": WarmupConstant(0.1, 0), "clip_norm": None}
    updates = {}
    for optimizer in (Muon(**settings), AdamW(**settings)):
        built = optimizer.build(params, roles)
        updates[type(optimizer)], _ = built.update(grads, built.init(params), params)
    update = np.asarray(updates[Muon]["layers"]["up"]["kernel"]) / (0.1 * 0.2 * 16**0.5)
    for matrix in update:  # Newton and Schulz's iteration brings singular values near 1, not to it
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.min() > 0.5 and values.max() < 1.4
    for path in (("ends", "embedding"), ("ends", "head", "kernel"), ("layers", "norm", "scale")):
        a, b = updates[Muon], updates[AdamW]
        for key in path:
            a, b = a[key], b[key]
        np.testing.assert_allclose(a, b, rtol=1e-5)


@dataclass(frozen=True)
class OnlyTheFirst(TokenWeight):
    """Counts token 0 alone, and keeps what it was given."""

    def __call__(self, x0, nats, reference=None):
        return jnp.where(x0 == 0, 2.0, 0.0) + 0 * nats


def step_of(config, tokens):
    experiment = resolve(replace(config, sampler=config.sampler), Letters27())
    state = init_state(experiment)
    return jax.jit(make_train_step(experiment))(state, jnp.asarray(tokens)[None])


def test_a_token_weight_multiplies_the_loss_and_not_its_own_gradient():
    config = get_config()
    tokens = np.random.default_rng(0).integers(0, 27, (16, 32))
    tokens[:, ::2] = 0
    weighted = replace(config, train=replace(config.train, token_weight=OnlyTheFirst()))
    _, whole = step_of(config, tokens)
    _, first = step_of(weighted, tokens)
    zero = replace(weighted, train=replace(weighted.train, token_weight=OnlyTheFirst()))
    assert float(first) != pytest.approx(float(whole), rel=1e-3)
    tokens[tokens == 0] = 1
    _, none = step_of(zero, tokens)
    assert float(none) == 0


@dataclass(frozen=True)
class Doubled(TimeWeight):
    """Every time twice."""

    def __call__(self, process, u, x0, key):
        return 2.0


def test_a_time_weight_multiplies_the_loss():
    config = get_config()
    tokens = np.random.default_rng(0).integers(0, 27, (16, 32))
    _, whole = step_of(config, tokens)
    doubled = replace(config, train=replace(config.train, time_weight=Doubled()))
    assert float(step_of(doubled, tokens)[1]) == pytest.approx(2 * float(whole), rel=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [LinearSchedule(), MDLMCosine()])
def test_tempered_weighs_a_masked_token_by_a_power_of_the_bounds_weight(power, schedule):
    process = MDLM(27, schedule)
    u = jnp.linspace(0.01, 0.99, 50)[:, None]
    x0, z = jnp.zeros((50, 1), int), jnp.full((50, 1), 27)
    nats = process.token_loss(jnp.zeros((50, 1, 27)), x0, z, u)
    weighted = Tempered(power)(process, u, x0, jax.random.key(0)) * nats / np.log(27)
    np.testing.assert_allclose(weighted, masked_weight(schedule, u) ** power, rtol=1e-5)


def test_tempered_is_for_masks_alone():
    config = get_config()
    with pytest.raises(ValueError, match=r"train.time_weight = Tempered: UDLM is not a masked"):
        replace(config, process=UDLM(), train=replace(config.train, time_weight=Tempered()))
    with pytest.raises(ValueError, match=r"Tempered.power = 2 is outside"):
        Tempered(2)


def test_runs_of_the_version_before_are_read():
    old = {"_type": "experiments.config.AdamW", "peak_lr": 2e-3, "warmup_steps": 50,
           "decay_steps": 600, "final_lr": 0.0, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8,
           "weight_decay": 0.0, "clip_norm": 1.0}  # fmt: skip
    assert decode(old) == AdamW(WarmupCosine(2e-3, 50, 600), beta2=0.99)
    assert decode(old | {"decay_steps": None}) == AdamW(WarmupConstant(2e-3, 50), beta2=0.99)
    new = encode(AdamW(WarmupCosine(2e-3, 50, 600)))
    assert renamed(new) == new and decode(new) == AdamW(WarmupCosine(2e-3, 50, 600))
    flow = encode(get_config().process) | {"_type": "diffusion.dirichlet.DirichletFlow"}
    flow = {"_type": flow["_type"], "vocab_size": 5}
    student = {
        "_type": "samplers.distillation.OneStep",
        "vocab_size": 5,
        "process": flow,
        "sampler": {"_type": "samplers.ode.ODE", "steps": 16, "end": 0.05},
    }
    found = decode(student)
    assert (found.steps, found.end, found.vocab_size) == (16, 0.05, 5)
