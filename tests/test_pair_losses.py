"""Learning answers given prompts: the loss with exact denoisers is the conditional entropy, and what
training computes is that loss."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import FLOOR, OneText, Toy, quadrature

from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.conditional import Conditional
from diffusion.distillation import SDTT
from diffusion.eso_lm import EsoLM
from diffusion.genmd4 import GenMD4
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.process import denoising_process
from diffusion.radd import RADD
from diffusion.schedules import Linear
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from experiments.config import Experiment, Train
from experiments.data.text import Text
from experiments.data.tokenizers import Characters
from experiments.time_weights.stratified_counts import StratifiedCounts
from experiments.token_losses.label_smoothing import LabelSmoothing
from experiments.training.train_step import init_state, make_train_step, training_loss
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.blocks import BlockByBlock

PROMPTS = [np.array(known) for known in ([1, 0, 0], [1, 1, 0], [0, 0, 0])]


class GivenPrompts(Toy):
    """A toy whose exact denoiser knows that the tokens of the prompt, `known` (L,), are clean."""

    def __init__(self, known):
        toy = Toy.named()
        super().__init__(toy.p, toy.vocab_size, toy.length)
        self.known = known.astype(bool)
        same = (self.states[:, None] == self.states[None]) | ~self.known
        self.nats = -np.log(toy.p / (same.all(-1) @ toy.p))  # -log p(answer | prompt)

    def log_likelihoods(self, process, z, t):
        same = z[:, None] == self.states[None]
        noisy = super().log_likelihoods(process, z, t)
        return jnp.where(self.known, jnp.where(same, 0, FLOOR), noisy)

    def prompts(self, rows):
        return jnp.broadcast_to(jnp.asarray(self.known), (rows, self.length))


@pytest.mark.parametrize(
    "process",
    [
        MDLM(3),
        RADD(3, objective="t_dce"),
        SEDD(3, Uniform(), Linear(), head="leave_one_out"),
        UDLM(3),
    ],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("known", PROMPTS[:2], ids=str)
def test_with_the_exact_denoiser_the_loss_is_the_entropy_of_answers_given_prompts(
    process, known, x64, monkeypatch
):
    """z enumerated, time integrated; z is noisy in the places of the prompt, which the model must not
    see: not only of masks, whose bound of p(y | x) this always is, but of uniform noise too."""
    toy = GivenPrompts(known)
    noise = Toy.named()  # whose q is of all positions
    model, z = toy.denoiser(process), jnp.asarray(toy.all_states(process))
    rows = jnp.repeat(jnp.asarray(toy.states), len(z), axis=0)
    monkeypatch.setattr(type(process), "corrupt", lambda *_: jnp.tile(z, (len(toy.p), 1)))

    @jax.jit
    def at(t):
        conditional, u = Conditional(process, toy.prompts(len(rows))), jnp.full((len(rows), 1), t)
        nats = conditional.loss(jax.random.key(0), model, rows, u).sum(1)
        q = noise.transition(process, z, jnp.full((len(z), 1), t))
        return jnp.where(q > 0, q * nats.reshape(len(toy.p), len(z)), 0).sum(1)

    nats = sum(weight * at(time) for time, weight in zip(*quadrature(), strict=True))
    np.testing.assert_allclose(nats, toy.nats, rtol=2e-4)


@pytest.mark.parametrize(
    "process",
    [RADD(3), RADD(3, objective="k_dce"), BlockDiffusion(MDLM(3), 2), EsoLM(MDLM(3))],
    ids=["lambda", "k", "blocks", "eso"],
)
@pytest.mark.parametrize("known", PROMPTS[:2], ids=str)
def test_losses_with_draws_of_their_own_are_that_entropy_in_the_mean(process, known):
    toy, count = GivenPrompts(known), 600
    base = denoising_process(process)
    rows = jnp.repeat(jnp.asarray(toy.states), count, axis=0)
    u = jnp.tile((jnp.arange(count) + 0.5) / count, len(toy.p))[:, None]

    def model(z, t, context=None):
        if context is None:
            return toy.denoiser(base)(z, t)
        first = toy.denoiser(base)(z.at[:, 2:].set(base.mask), t)  # which sees its own block
        second = toy.denoiser(base)(jnp.concatenate([context[:, :2], z[:, 2:]], 1), t)
        return jnp.concatenate([first[:, :2], second[:, 2:]], axis=1)

    @jax.jit
    def draws(key):
        conditional = Conditional(process, toy.prompts(len(rows)))
        return conditional.loss(key, OneText(model), rows, u).sum(1).reshape(-1, count)

    nats = np.asarray(draws(jax.random.key(0)), np.float64)
    error = nats.std(1) / np.sqrt(count)
    assert np.all(np.abs(nats.mean(1) - toy.nats) < 5 * error + 1e-4)


def test_from_left_to_right_the_loss_is_the_likelihood_of_the_answer_alone():
    toy, process = GivenPrompts(PROMPTS[0]), Autoregressive(3)
    table = jax.random.normal(jax.random.key(0), (4, 3))

    @OneText
    def model(z, t):
        return table[z]

    x0 = jnp.asarray(toy.states)
    loss = Conditional(process, toy.prompts(len(x0))).loss(None, model, x0, None)
    log_p = np.asarray(jax.nn.log_softmax(table))
    assert np.all(np.asarray(loss)[:, 0] == 0)
    np.testing.assert_allclose(
        loss[:, 1:], -log_p[toy.states[:, :-1], toy.states[:, 1:]], rtol=1e-5
    )


# Training

DATA = Text("pairs.jsonl", Characters("abcd|"), 8, rows="pair", end="|")
MODEL = Transformer(5, num_layers=1, width=16, num_heads=2, dtype="float32")


def experiment(process, **train):
    train = Train(batch_size=4, num_steps=1, **train)
    return Experiment(process, MODEL, DATA, Ancestral(), train=train)


def test_a_training_step_learns_answers_alone_from_clean_prompts():
    """The loss is the mean over positions that are not known; what the prompt costs is not in it."""
    asked = experiment(UDLM(5))
    x0 = jax.random.randint(jax.random.key(1), (4, 8), 0, 5)
    known = jnp.arange(8)[None] < jnp.array([[2], [0], [5], [7]])
    state = init_state(asked)
    step = jax.jit(make_train_step(asked))
    _, loss = step(state, x0[None], {"known": known[None]})
    everything = jax.jit(make_train_step(asked))(state, x0[None])[1]
    assert abs(float(loss) - float(everything)) > 1e-3

    def one(row, seen):  # a single answer's place, the others known
        others = jnp.ones((4, 8), bool).at[row].set(seen)
        return float(step(state, x0[None], {"known": others[None]})[1]) * int((~others).sum())

    rows = sum(one(row, known[row]) for row in range(4))
    np.testing.assert_allclose(float(loss), rows / int((~known).sum()), rtol=1e-5)


@pytest.mark.parametrize(
    "train",
    [{}, {"time_weight": StratifiedCounts()}, {"token_loss": LabelSmoothing(0.1)}],
    ids=["plain", "counts", "smoothed"],
)
def test_the_network_never_sees_a_noisy_prompt(train):
    asked, seen = experiment(MDLM(5), **train), []
    x0 = jax.random.randint(jax.random.key(1), (4, 8), 0, 5)
    known = jnp.arange(8)[None] < jnp.array([[2], [0], [5], [7]])

    @OneText
    def model(z, t):
        seen.append(np.asarray(jnp.where(known, z, x0)))
        return jnp.zeros((4, 8, 5))

    keys, u = jax.random.split(jax.random.key(0), 4), jnp.full((4, 1), 0.9)
    loss = training_loss(asked, asked.process, model, keys, x0, u, {"known": known})
    assert seen
    for z in seen:
        np.testing.assert_array_equal(z, x0)
    loss = np.asarray(loss)
    assert np.all(loss[np.asarray(known)] == 0) and loss[1].sum() > 0


@pytest.mark.parametrize("process", [GenMD4(5), SDTT(5)], ids=lambda p: type(p).__name__)
def test_what_has_no_loss_of_answers_is_rejected_with_what_has(process):
    name = type(process).__name__
    with pytest.raises(ValueError, match=f"{name} has no loss of answers.* such as MDLM"):
        replace(experiment(MDLM(5)), process=process)


def test_blocks_take_rows_that_are_filled_up_alone():
    blocks = {"process": BlockDiffusion(MDLM(5)), "sampler": BlockByBlock()}
    replace(experiment(MDLM(5)), **blocks)
    with pytest.raises(ValueError, match=r"full length; fill rows up with data\.end"):
        replace(experiment(MDLM(5)), **blocks, data=replace(DATA, end=""))
