"""Losses of tokens: what each makes of logits, where its minimum is, and that every process takes it."""

from dataclasses import dataclass, replace

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
from experiments.token_losses.process_loss import ProcessLoss
from experiments.token_losses.squentropy import Squentropy
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


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_focal_is_flatter_at_its_minimum_as_its_formula_says(power):
    p = np.array([0.3, 0.7])
    q = g(p[1], power) / (g(p[0], power) + g(p[1], power))  # q g(p) = (1 - q) g(1 - p)
    assert q < 0.3  # further from a half than what is learned

    def loss(out):
        focal, x0, t = Focal(power), jnp.array([[0], [1]]), jnp.ones((2, 1))
        model = focal.applied(Says(jnp.broadcast_to(out, (2, 1, 2))))
        each = MDLM(2).loss_of(model, x0, jnp.full((2, 1), 2), t)[:, 0]
        return q * each[0] + (1 - q) * each[1]

    np.testing.assert_allclose(jax.grad(loss)(jnp.log(jnp.asarray(p))), 0, atol=1e-6)
    nats = -np.log(p)
    wanted = q * (1 - p[0]) ** power * nats[0] + (1 - q) * (1 - p[1]) ** power * nats[1]
    assert loss(jnp.log(p)) == pytest.approx(wanted, rel=1e-5)


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


COUNTS = (5.0, 3.0, 2.0)
PROCESSES = [
    MDLM(V), MDLM(V, num_steps=4), UDLM(V), GIDD(V), GIDD(V, p_uniform=0.0), GenMD4(V),
    Spindle(V, unigram=COUNTS), SEDD(V, head="posterior"), D3PM(V, num_steps=4),
    D3PM(V, num_steps=4, hybrid=0.1), BFN(V), DirichletFlow(V), LinearFlow(V), Autoregressive(V),
    BlockDiffusion(MDLM(V), 2),
]  # fmt: skip
NEUTRAL = ZLoss(0.0, LabelSmoothing(0.0, Focal(0.0, Squentropy(0.0, ErrorNormTruncation(1.41)))))


@pytest.mark.representatives(
    "MDLM0", "UDLM", "GIDD0", "GenMD4", "SEDD", "D3PM1", "BFN", "Autoregressive", "BlockDiffusion"
)
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
