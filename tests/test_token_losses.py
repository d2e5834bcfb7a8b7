"""Losses of tokens: what each makes of logits, where its minimum is, and that every process takes it."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.smoke import get_config
from diffusion.autoregressive import Autoregressive
from diffusion.bfn import BFN
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.dirichlet import DirichletFlow
from diffusion.edlm import EDLM
from diffusion.genmd4 import GenMD4
from diffusion.gidd import GIDD
from diffusion.linear_flow import LinearFlow
from diffusion.mdlm import MDLM
from diffusion.noisy_classifier import NoisyClassifier
from diffusion.schedules import masked_weight
from diffusion.sedd import SEDD
from diffusion.spindle import Spindle
from diffusion.udlm import UDLM
from experiments import cli
from experiments.data.tokenizers import Letters27
from experiments.devices.sharding import make_mesh
from experiments.errors import UserError
from experiments.evaluation.estimators import make_bound
from experiments.overrides import resolve
from experiments.time_weights.complementary import Complementary
from experiments.token_losses.error_norm_truncation import ErrorNormTruncation
from experiments.token_losses.focal import Focal
from experiments.token_losses.label_smoothing import LabelSmoothing
from experiments.token_losses.ordinal import Ordinal
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.spherical_z_loss import SphericalZLoss
from experiments.token_losses.squentropy import Squentropy
from experiments.token_losses.tldr import TLDR
from experiments.token_losses.z_loss import ZLoss
from experiments.token_weights.goldfish import Goldfish
from experiments.training.train_step import init_state, make_train_step
from models.backbone import Network
from models.transformer import Transformer

V, L, B = 3, 6, 4
Q = np.array([0.6, 0.3, 0.1])


@dataclass(frozen=True)
class Says:
    """A network that says the same of every state."""

    out: jax.Array
    segments: None = None

    def __call__(self, z, t, **condition):
        return self.out


def expected(loss, out):
    """The mean over tokens ~ Q of the loss of one masked position at t = 1, where w = 1."""
    x0, t = jnp.arange(V)[:, None], jnp.ones((V, 1))
    model = loss.applied(Says(jnp.broadcast_to(out, (V, 1, V))))
    return (Q * MDLM(V).loss_of(model, x0, jnp.full((V, 1), V), t)[:, 0]).sum()


def slope(loss, out):
    return np.asarray(jax.grad(lambda out: expected(loss, out))(jnp.asarray(out)))


def test_label_smoothing_is_the_cross_entropy_of_smoothed_tokens():
    out = jnp.array([1.0, -2.0, 0.5])
    smoothed = 0.8 * Q + 0.2 / V
    wanted = -(smoothed * jax.nn.log_softmax(out)).sum()
    assert expected(LabelSmoothing(0.2), out) == pytest.approx(float(wanted), rel=1e-6)
    np.testing.assert_allclose(slope(LabelSmoothing(0.2), np.log(smoothed)), 0, atol=1e-6)
    assert abs(slope(LabelSmoothing(0.2), np.log(Q))).max() > 0.05


def test_the_z_loss_leaves_the_distribution_and_chooses_the_normaliser():
    log_q = np.log(Q)
    np.testing.assert_allclose(slope(ZLoss(0.3), log_q), 0, atol=1e-6)
    np.testing.assert_allclose(slope(ZLoss(0.3), log_q + 2), 2 * 0.3 * 2 * Q, rtol=1e-5)
    assert expected(ZLoss(0.3), log_q + 2) == pytest.approx(-(Q * log_q).sum() + 0.3 * 4, rel=1e-5)


def g(p, power):
    return (1 - p) ** power / p - power * (1 - p) ** (power - 1) * np.log(p)


def g_tldr(p):
    return (1 + np.cos(np.pi * p)) / p - np.pi * np.sin(np.pi * p) * np.log(p)


@pytest.mark.parametrize(
    "token_loss, g, weight",
    [
        *((Focal(n), partial(g, power=n), lambda p, n=n: (1 - p) ** n) for n in (0.5, 1.0, 2.0)),
        (TLDR(), g_tldr, lambda p: 1 + np.cos(np.pi * p)),
    ],
    ids=["Focal 0.5", "Focal 1", "Focal 2", "TLDR"],
)
def test_what_counts_less_if_sure_is_flatter_at_its_minimum_as_its_formula_says(
    token_loss, g, weight
):
    p = np.array([0.3, 0.7])
    q = g(p[1]) / (g(p[0]) + g(p[1]))  # q g(p) = (1 - q) g(1 - p)
    assert q < 0.3  # further from a half than what is learned

    def loss(out):
        x0, t = jnp.array([[0], [1]]), jnp.ones((2, 1))
        model = token_loss.applied(Says(jnp.broadcast_to(out, (2, 1, 2))))
        each = MDLM(2).loss_of(model, x0, jnp.full((2, 1), 2), t)[:, 0]
        return q * each[0] + (1 - q) * each[1]

    np.testing.assert_allclose(jax.grad(loss)(jnp.log(jnp.asarray(p))), 0, atol=2e-6)
    nats = -np.log(p) * weight(p)
    assert loss(jnp.log(p)) == pytest.approx(q * nats[0] + (1 - q) * nats[1], rel=1e-5)


def test_focal_has_a_gradient_where_the_model_is_sure():
    assert np.isfinite(slope(Focal(0.5), np.array([200.0, 0.0, 0.0]))).all()


def test_squentropy_pulls_other_logits_to_0_as_its_formula_says():
    out, loss = np.zeros(V), Squentropy(0.5)
    for _ in range(2000):
        p = np.exp(out) / np.exp(out).sum()
        out = out - 0.3 * (p - (Q - 2 * 0.5 * (1 - Q) * out / (V - 1)))
    np.testing.assert_allclose(slope(loss, out), 0, atol=1e-6)
    assert abs(p - 1 / V).max() < abs(Q - 1 / V).max()
    out = jnp.array([1.0, -2.0, 0.5])
    wanted = -(Q * jax.nn.log_softmax(out)).sum() + 0.5 / 2 * ((1 - Q) * out**2).sum()
    assert expected(loss, out) == pytest.approx(float(wanted), rel=1e-6)


def test_error_norm_truncation_leaves_out_what_the_model_is_surely_wrong_about():
    loss, sure = ErrorNormTruncation(1.2), np.array([6.0, 0.0, 0.0])
    log_p = jax.nn.log_softmax(sure)
    assert expected(loss, sure) == pytest.approx(float(-Q[0] * log_p[0]), rel=1e-3)
    unsure = np.zeros(V)
    assert expected(loss, unsure) == pytest.approx(np.log(V), rel=1e-6)
    assert expected(ErrorNormTruncation(0.8), unsure) == 0  # (2 / 3)^(1/2) = 0.816
    np.testing.assert_allclose(slope(loss, sure), Q[0] * (np.exp(log_p) - [1, 0, 0]), atol=1e-6)


def test_the_spherical_z_loss_has_the_minimum_that_it_names_and_no_scale():
    loss = SphericalZLoss(1.0, 2.0, 1.0, floor=1e-9)
    out = jnp.array([0.5, 0.1, -0.3])
    descend = jax.jit(lambda out: out - 0.5 * jax.grad(lambda out: expected(loss, out))(out))
    for _ in range(500):
        out = descend(out)
    z = np.asarray((out - out.mean()) / out.std(), np.float64)
    z_of = 1 / (1 + np.exp(-2.0 * (1.0 - z)))
    assert (np.diff(z) < 0).all()  # as Q
    slope_, at_0 = np.polyfit(z, Q * z_of, 1)
    np.testing.assert_allclose(slope_ * z + at_0, Q * z_of, atol=1e-4)
    wanted = (Q * np.log1p(np.exp(2.0 * (1 - z))) / 2).sum()
    for other in (out, 7 * out, out + 3):
        assert expected(loss, other) == pytest.approx(wanted, rel=1e-4)
    assert abs(slope(replace(loss, share=0.5), out)).max() > 0.01  # f chooses a scale
    assert np.isfinite(slope(SphericalZLoss(), np.zeros(V))).all()


def test_the_squared_distance_of_tokens_in_order_is_proper_and_the_distance_is_not():
    out, far = jnp.array([1.0, -2.0, 0.5]), np.abs(np.arange(V)[:, None] - np.arange(V))
    p, q = np.asarray(jax.nn.softmax(out)), np.log(Q)
    apart, same = (p @ far @ p) / 2, (Q @ far @ Q) / 2
    # Of x0 the squared distance of the sums is E|v - x0| - E|v - v'| / 2.
    wanted = -(Q * jax.nn.log_softmax(out)).sum() + 3 / 2 * (p @ far @ Q - apart)
    assert expected(Ordinal(scale=3.0), out) == pytest.approx(float(wanted), rel=1e-5)
    np.testing.assert_allclose(slope(Ordinal(scale=3.0), q), 0, atol=1e-6)
    assert expected(Ordinal(scale=3.0), q) == pytest.approx(-(Q @ q) + 3 / 2 * same, rel=1e-5)
    plain = Ordinal(squared=False, scale=3.0)
    wanted = -(Q * jax.nn.log_softmax(out)).sum() + 3 / 2 * p @ far @ Q
    assert expected(plain, out) == pytest.approx(float(wanted), rel=1e-5)
    cost = far @ Q
    for _ in range(200):
        biased = Q / (1 + 3 / 2 * (cost - p @ cost))
        p = (p + biased / biased.sum()) / 2
    np.testing.assert_allclose(slope(plain, np.log(p)), 0, atol=1e-5)
    assert p[0] > Q[0] + 0.09  # the median


def test_tokens_out_of_the_order_add_nothing_and_are_not_moved():
    out, x0 = jnp.array([[1.0, -2.0, 0.5, 4.0]] * 4)[:, None], jnp.arange(4)[:, None]
    one = jnp.ones((4, 1))
    loss = Ordinal(order=(2, 0, 1), squared=False)
    found = np.asarray(loss(0 * one, out, x0, one))[:, 0]
    p = np.asarray(jax.nn.softmax(out[0, 0, jnp.array([2, 0, 1])]))
    ranks = np.abs(np.arange(3)[:, None] - np.arange(3)) @ p / 2
    np.testing.assert_allclose(found, [ranks[1], ranks[2], ranks[0], 0], rtol=1e-5)
    moved = jax.grad(lambda out: loss(0 * one, out, x0, one).sum())(out)
    assert (moved[..., 3] == 0).all() and (moved[3] == 0).all() and abs(moved).max() > 0.01
    with pytest.raises(UserError, match="order names token 4, but the data's are 0 to 3"):
        Ordinal(order=(0, 4))(0 * one, out, x0, one)


@pytest.mark.parametrize(
    "token_loss",
    [SphericalZLoss(), TLDR(), Ordinal(), Ordinal(squared=False)],
    ids=lambda loss: type(loss).__name__,
)
def test_gradients_are_those_of_finite_differences(token_loss):
    out = jnp.array([1.0, -2.0, 0.5])
    with jax.enable_x64():
        out, x0, one = jnp.asarray(np.asarray(out, float)), jnp.array([[1]]), jnp.ones((1, 1))

        def of(out):
            nats = -jax.nn.log_softmax(out)[1] * one
            return token_loss(nats, out[None, None], x0, one)[0, 0]

        found, step = jax.grad(of)(out), 1e-5 * np.eye(3)
        near = [(of(out + h) - of(out - h)) / 2e-5 for h in step]
        np.testing.assert_allclose(found, near, rtol=1e-5, atol=1e-8)


COUNTS = (5.0, 3.0, 2.0)
PROCESSES = [
    MDLM(V), MDLM(V, num_steps=4), UDLM(V), GIDD(V), GIDD(V, p_uniform=0.0), GenMD4(V),
    Spindle(V, unigram=COUNTS), SEDD(V, head="posterior"), D3PM(V, num_steps=4),
    D3PM(V, num_steps=4, hybrid=0.1), BFN(V), DirichletFlow(V), LinearFlow(V), Autoregressive(V),
    BlockDiffusion(MDLM(V), 2),
]  # fmt: skip
NEUTRAL = ZLoss(0.0, LabelSmoothing(0.0, Focal(0.0, Squentropy(0.0, ErrorNormTruncation(1.41)))))
NEUTRAL = SphericalZLoss(0.0, inner=Ordinal(scale=0.0, inner=NEUTRAL))


@pytest.mark.representatives("MDLM0", "UDLM", "SEDD", "BlockDiffusion", "Autoregressive")
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_every_process_of_logits_takes_a_loss_of_tokens_which_is_weighted_as_its_own(process):
    out = jax.random.normal(jax.random.key(0), (B, L, V))
    x0 = jax.random.randint(jax.random.key(1), (B, L), 0, V)
    u = (jnp.arange(B)[:, None] + 0.5) / B

    def loss(token_loss, out=out):
        return process.loss(jax.random.key(2), token_loss.applied(Says(out)), x0, u)

    own = loss(ProcessLoss())
    np.testing.assert_allclose(loss(NEUTRAL), own, rtol=1e-6)
    of_uniform = loss(ProcessLoss(), jnp.zeros((B, L, V)))
    log_z = jax.nn.logsumexp(out, axis=-1)
    wanted = own + 0.1 * of_uniform / np.log(V) * log_z**2
    found = loss(ZLoss(0.1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert abs(found - own).max() > 1e-3


def test_the_weight_is_that_of_the_time_where_a_token_is_masked():
    process, kept, u = MDLM(V), [], jnp.array([[0.2], [0.7]])

    class Keeps(ZLoss):
        def __call__(self, nats, out, x0, weight):
            kept.append(weight)
            return nats

    z = jnp.array([[0, V], [V, 1]])
    process.loss_of(Keeps().applied(Says(jnp.ones((2, 2, V)))), jnp.zeros((2, 2), int), z, u)
    wanted = jnp.where(z == V, masked_weight(process.schedule, u), 0)
    np.testing.assert_allclose(kept[0], wanted, rtol=1e-6)


def test_the_chunked_head_gives_the_same_losses_and_gradients():
    model = Transformer(vocab_size=27, num_layers=1, width=16, num_heads=2, dropout=0.0)
    params = model.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), params)
    x0 = jax.random.randint(jax.random.key(1), (2, 12), 0, 27)
    u = jnp.array([[0.3], [0.8]])
    token_loss = ZLoss(0.1, LabelSmoothing(0.1, Focal(1.0, Squentropy(0.5))))
    token_loss = SphericalZLoss(0.1, inner=Ordinal(inner=TLDR(token_loss)))

    def of(params, process, chunked):
        network = Network(replace(model.for_process(process.traits.attention_block, None),
                                  chunked_head=chunked), params)  # fmt: skip
        return process.loss(jax.random.key(2), token_loss.applied(network), x0, u).mean()

    for process in (MDLM(27), Autoregressive(27)):
        of_process = jax.jit(jax.value_and_grad(of), static_argnums=(1, 2))
        whole, parts = (of_process(params, process, chunked) for chunked in (False, True))
        assert whole[0] == pytest.approx(float(parts[0]), rel=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), whole[1], parts[1]
        )


def test_training_takes_it_and_the_default_is_the_processs_own():
    config = get_config()
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 27, (16, 32)))

    def loss(token_loss):
        experiment = replace(config, train=replace(config.train, token_loss=token_loss))
        experiment = resolve(experiment, Letters27())
        step = jax.jit(make_train_step(experiment))
        return float(step(init_state(experiment), tokens[None])[1])

    assert config.train.token_loss == ProcessLoss()
    assert loss(ZLoss(1.0)) > loss(ProcessLoss()) + 1


def test_the_bound_that_is_evaluated_is_the_same_program_whatever_is_trained():
    plain = resolve(get_config(), Letters27())
    recipe = replace(
        plain.train,
        token_loss=ZLoss(inner=LabelSmoothing()),
        token_weight=Goldfish(),
        time_weight=Complementary(),
    )
    params = jax.eval_shape(lambda: plain.init_params(jax.random.key(0)))

    def program(experiment, times=2):
        bound = make_bound(experiment, times, 0, make_mesh(plain.mesh))
        return bound.lower(params, jnp.zeros((4, 32), int), 0).as_text()

    assert program(replace(plain, train=recipe)) == program(plain) != program(plain, 3)


@pytest.mark.parametrize(
    "process", [SEDD(), EDLM(), NoisyClassifier(), BFN(num_steps=4), BlockDiffusion(SEDD())]
)
def test_a_process_without_logits_of_tokens_says_so(process):
    with pytest.raises(ValueError, match=f"{type(process).__name__} as it is set does not take"):
        ZLoss().check(process)
    ProcessLoss().check(process)


def test_a_loss_of_all_logits_at_once_is_not_left_as_it_is():
    with pytest.raises(UserError, match="not by at_positions"):
        ZLoss().applied(Says(jnp.zeros((1, 1, V))))(jnp.zeros((1, 1), int), jnp.ones((1, 1)))


@pytest.mark.parametrize(
    "settings, words",
    [
        (["ZLoss", "coefficient=-1"], "ZLoss.coefficient = -1.0 must not be negative"),
        (["LabelSmoothing", "share=1"], "LabelSmoothing.share = 1.0 is outside [0, 1)"),
        (["Focal", "power=-1"], "Focal.power = -1.0 must not be negative"),
        (["Squentropy", "scale=-1"], "Squentropy.scale = -1.0 must not be negative"),
        (["ErrorNormTruncation", "most=2"], "ErrorNormTruncation.most = 2.0 is outside"),
        (["SphericalZLoss", "share=2"], "SphericalZLoss.share = 2.0 is outside [0, 1]"),
        (["SphericalZLoss", "floor=0"], "SphericalZLoss.floor = 0.0 must be above 0"),
        (["Ordinal", "scale=-1"], "Ordinal.scale = -1.0 must not be negative"),
        (["Ordinal", "order=[3,3]"], "Ordinal.order = (3, 3) must name at least two tokens"),
        (["Smooth"], "expected one of ErrorNormTruncation, Focal, LabelSmoothing"),
    ],
)
def test_a_mistake_is_one_line(settings, words, capsys):
    name, *inner = settings
    overrides = [f"train.token_loss={name}", *(f"train.token_loss.{item}" for item in inner)]
    options = [word for item in overrides for word in ("--set", item)]
    assert cli.guarded("train", ["--config", "configs/smoke.py", "--dry-run", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
