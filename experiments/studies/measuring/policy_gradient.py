"""Policy gradient of a reward on answers, with a bound or an estimate in the place of log p(answer).

With rewards r of G answers a to one prompt, drawn by the run itself, and the leave-one-out baseline,

    gradient of E[r]  =  E[ A grad log p(a | prompt) ],    A_i = r_i - mean of the others' r,

which needs log p. A diffusion model has none. In its place stand

    bound      - the bound of -log p in its stochastic form, at `num_times` stratified times. Its mean is
               a lower bound of log p, and its gradient that of log p where the bound is tight;
    one_step   the log probability of drawing the whole answer in one step from noise, as diffu-GRPO
               (arXiv 2504.12216) has it: cheap, of little variance, and another distribution's.

A penalty `kl` takes kl times the log ratio to the run at the start from the reward, by the same
estimates with the same noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from diffusion.conditional import Conditional, clamped
from diffusion.numerics import gather_last
from diffusion.process import Likelihood, Process
from experiments.config import Experiment
from experiments.data.pairs import PairRows
from experiments.errors import UserError
from experiments.run import Run
from experiments.sampling.known import answered
from experiments.sampling.samples import make_sample
from experiments.training.train_step import make_optimizer

Kind = Literal["bound", "one_step"]
Reward = Callable[[str, str, str], float]


@dataclass(frozen=True)
class Estimate:
    """What stands in the place of log p(answer). kind: above. num_times: of the bound. shared: whether
    the answers to a prompt are estimated with the same noise."""

    kind: Kind = "bound"
    num_times: int = 1
    shared: bool = False

    def nats(
        self, experiment: Experiment, params: dict, key: Array, tokens: Array, known: Array
    ) -> Array:
        """(P, G): minus the estimate of log p of the tokens (P, G, L) that are not known, of G answers
        to each of P prompts."""
        prompts, answers, length = tokens.shape
        repeats = answers if self.shared else 1
        process, network = experiment.bind(params), experiment.network(params)
        assert isinstance(process, Process) and isinstance(process, Likelihood)  # `check`
        rows, known = tokens.reshape(-1, length), known.reshape(-1, length)
        keys = jax.random.split(key, (prompts * answers // repeats, 2))
        keys = jnp.repeat(keys, repeats, axis=0)

        def at_time(number):
            fresh = jax.vmap(lambda k: jax.random.fold_in(k, number))(keys[:, 0])
            if self.kind == "one_step":
                t, z = jnp.ones((len(rows), 1)), process.prior(fresh, (len(rows), length))
                out = clamped(process, network, rows, known)(z, t)
                return jnp.where(known, 0, -gather_last(process.predict(out, z, t), rows))
            start = jax.vmap(jax.random.uniform)(keys[:, 1])
            u = ((start + number / self.num_times) % 1)[:, None]
            terms = Conditional(process, known).bound_terms(fresh, network, rows, u)
            first, *others = terms.values()
            return sum(others, start=first)

        count = self.num_times if self.kind == "bound" else 1
        return jax.lax.map(at_time, jnp.arange(count)).mean(0).sum(-1).reshape(prompts, answers)


def advantages(rewards: Array) -> Array:
    """A (P, G) of rewards (P, G): each less the mean of the others to the same prompt."""
    count = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdims=True)) * count / (count - 1)


def surrogate(
    experiment: Experiment,
    estimate: Estimate,
    params: dict,
    key: Array,
    tokens: Array,
    known: Array,
    advantage: Array,
) -> Array:
    """A scalar whose gradient is minus the policy gradient, a mean over answers."""
    return (advantage * estimate.nats(experiment, params, key, tokens, known)).mean()


def make_update(
    experiment: Experiment, estimate: Estimate, kl: float, params: dict
) -> tuple[Callable[..., tuple[dict, dict]], optax.GradientTransformation]:
    """(update(state, seed, tokens, known, rewards, reference) -> (state, figures), the optimiser).
    state: {"ema": parameters, "optimizer", "step"}; reference: the parameters at the start."""
    optimizer = make_optimizer(experiment, params)

    @partial(jax.jit, donate_argnums=0)
    def update(state, seed, tokens, known, rewards, reference):
        params = state["ema"]
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        drift = jnp.zeros_like(rewards)
        if kl:
            theirs, ours = (
                estimate.nats(experiment, p, key, tokens, known) for p in (reference, params)
            )
            drift = theirs - ours  # log p - log p at the start
        advantage = advantages(rewards - kl * drift)
        loss = partial(surrogate, experiment, estimate)
        grads = jax.grad(loss)(params, key, tokens, known, advantage)
        updates, inner = optimizer.update(grads, state["optimizer"], params)
        state = {
            "ema": optax.apply_updates(params, updates),
            "optimizer": inner,
            "step": state["step"] + 1,
        }
        figures = {
            "reward": rewards.mean(),
            "spread": advantage.std(),
            "grad_norm": optax.global_norm(grads),
        }
        return state, figures | ({"log_ratio": drift.mean()} if kl else {})

    return update, optimizer


@dataclass(frozen=True)
class Prompts:
    """Prompts of a split of pairs, the answers that a run draws to them, and their rewards."""

    run: Run
    rows: PairRows
    reward: Reward

    def sampler(self) -> Callable[..., Array]:
        """draw(params, seed, numbers (B,), known (B, L)) -> tokens (B, L), compiled."""
        drawn = make_sample(self.run.experiment, self.run.mesh)
        return lambda *given: drawn(*given)[0].x0

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, known), (n, L) each, of the rows of these numbers."""
        tokens, given = self.rows.batch(numbers)
        return tokens, given["known"]

    def rewards(self, numbers: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """(n,) of answers drawn, (n, L), to the prompts of these numbers."""
        data, (tokens, known) = self.run.experiment.data, self.batch(numbers)
        decode, ends = data.tokenizer.decode, self._ends()
        values = []
        for row, given, answer in zip(tokens, known, drawn, strict=True):
            stands = np.where(given, row, -1)
            texts = [decode(answered(data, x, stands, ends)) for x in (answer, row)]
            values.append(self.reward(decode(row[given]), *texts))
        return np.array(values, np.float32)

    def _ends(self) -> tuple[int, ...]:
        assert self.rows.end is not None  # `check`
        return (self.rows.end,)


def check(experiment: Experiment, where: str) -> None:
    """Nothing; UserError for a run without prompts, or whose answers have no likelihood to push."""
    process, data = experiment.process, experiment.data
    if data.rows != "pair" or not data.end:
        raise UserError(
            f"{where}: was not trained on pairs with an end; train one with data.rows=pair and data.end "
            "(docs/guide/prompts.md)"
        )
    if not (isinstance(process, Process) and isinstance(process, Likelihood)):
        raise UserError(
            f"{where}: process {type(process).__name__} has no bound over noisy states; take a masked "
            "or uniform one, such as MDLM"
        )


def gradient_spread(
    experiment: Experiment,
    estimate: Estimate,
    params: dict,
    tokens: Array,
    known: Array,
    advantage: Array,
    draws: int,
) -> dict[str, float]:
    """Over `draws` of the noise, for the same answers (P, G, L): "nats", the mean of the estimate of
    -log p; "noise_nats", its standard deviation for one answer; "noise", the variance of the gradient
    divided by the square of its mean's norm, bias of the norm taken off; "cosine", of its mean with that
    of the first half of the draws, which says how well the mean is known."""

    @jax.jit
    def one(key):
        nats = estimate.nats(experiment, params, key, tokens, known)
        loss = partial(surrogate, experiment, estimate)
        grads = jax.grad(loss)(params, key, tokens, known, advantage)
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(grads)])
        return nats, flat

    keys = jax.random.split(jax.random.key(7), draws)
    every = [jax.device_get(one(key)) for key in keys]
    nats = np.stack([values for values, _ in every])
    grads = np.stack([gradient for _, gradient in every]).astype(np.float64)
    mean = grads.mean(0)
    variance = float(((grads - mean) ** 2).sum(1).mean() * draws / (draws - 1))
    square = max(float((mean**2).sum()) - variance / draws, 1e-30)
    half = grads[: draws // 2].mean(0)
    cosine = float(mean @ half / np.sqrt((mean @ mean) * (half @ half)))
    return {
        "nats": float(nats.mean()),
        "noise_nats": float(nats.std(0, ddof=1).mean()),
        "noise": variance / square,
        "cosine": cosine,
    }
