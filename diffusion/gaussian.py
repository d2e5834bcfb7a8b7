"""Normal noise on embeddings of the tokens, and the bound of any denoiser of it (VDM, arXiv 2107.00630).

With e(x0) (L, D) the rows of a table E (V, D), and gamma(t) = -log SNR rising (`diffusion.log_snr`),

    z_t = alpha e(x0) + sigma eps,    alpha^2 = sigmoid(-gamma),    sigma^2 = sigmoid(gamma),

and with any estimate xhat that is a function of z_t,

    -log p(x0) <= E[-log p(x0 | z_0)]                                   reconstruction
                  + KL(q(z_1 | x0) || N(0, I))                          prior
                  + 1/2 int gamma' e^-gamma E |e(x0) - xhat|^2 dt       diffusion

Here xhat = sum_v p(v | z_t) E_v, of the distribution that the network gives of each token. With the
exact denoiser the mean of the bound is H(p) + KL(q(z_1) || N(0, I)), if z_0 is decoded exactly: it
depends on gamma through its ends alone.

What z says of its own token, log q(z | v) = alpha / sigma^2 z.E_v - alpha^2 / (2 sigma^2) |E_v|^2, is
added in closed form where head = "leave_one_out": the "output prior" of Plaid.

A step back from t to s, from a token or from xhat in its place, with c = 1 - exp(gamma_s - gamma_t):

    q(z_s | z_t, x) = N( alpha_s ((1 - c) z_t / alpha_t + c x),  sigma_s^2 c I ),
    DDIM              z_s = sigma_s / sigma_t z_t + (alpha_s - alpha_t sigma_s / sigma_t) xhat.

A draw of the token and then of q(z_s | z_t, token) is a mixture over tokens, `samplers.ancestral`; with
xhat it is the step of VDM, `samplers.mean_ancestral`. Both have the reverse process of the bound as
their limit in small steps. z_0 keeps some noise: samplers take the tokens from the network's last call.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.log_snr import LogSNR
from diffusion.markov import Head
from diffusion.model import Model, at_positions
from diffusion.numerics import gather_last, log_divide, log_softmax
from diffusion.process import FlowProcess, Kind, TimeIntegral, TransitionProcess
from diffusion.random import normal, split
from diffusion.spaces import Vectors


@dataclass(frozen=True)
class GivenEmbeddings:
    """Embeddings that training does not change.

    embeddings: one row per token; None takes what stands left and right of a token in the training text,
    a path a .npy file. normalised: whether rows are scaled to the norm sqrt(D), as learned ones are.
    """

    embeddings: tuple[tuple[float, ...], ...] | str | None = None
    normalised: bool = True
    learned: ClassVar[bool] = False

    def columns(self, vocab_size: int | None) -> int | None:
        """D; None until the data has been read."""
        return len(self.embeddings[0]) if isinstance(self.embeddings, tuple) else None

    def check(self, vocab_size: int | None) -> None:
        """ValueError for rows that do not fit V tokens."""
        if not isinstance(self.embeddings, tuple):
            return
        widths = {len(row) for row in self.embeddings}
        rows = len(self.embeddings)
        if len(widths) != 1 or 0 in widths or vocab_size not in (None, rows):
            raise ValueError(
                f"GivenEmbeddings.embeddings has {rows} rows of widths {sorted(widths)}; it must have a "
                f"row of the same width for each of {vocab_size or 'the'} tokens"
            )

    def init(self, key: Array, vocab_size: int) -> dict:
        """{}."""
        return {}

    def table(self, params: dict, vocab_size: int) -> Array:
        """E, (V, D)."""
        if not isinstance(self.embeddings, tuple):
            raise ValueError(
                f"GivenEmbeddings.embeddings = {self.embeddings} is filled in when the data is read; "
                "give rows to use the process without data"
            )
        table = jnp.asarray(self.embeddings)
        return _normalised(table) if self.normalised else table


@dataclass(frozen=True)
class LearnedEmbeddings:
    """Embeddings that are learned with the model.

    width: D. normalisation: of each row, to the norm sqrt(D) ("norm"), to that after its mean is taken
    from it, as layer normalisation does ("layer"), or none at all ("none").
    """

    width: int = 16
    normalisation: Literal["norm", "layer", "none"] = "norm"
    learned: ClassVar[bool] = True

    def columns(self, vocab_size: int | None) -> int:
        """D."""
        return self.width

    def check(self, vocab_size: int | None) -> None:
        """ValueError for a width that is none."""
        least = 2 if self.normalisation == "layer" else 1
        if self.width < least:
            raise ValueError(
                f"LearnedEmbeddings.width = {self.width} must be at least {least}"
                + (", less the mean of a row nothing is left of one number" if least > 1 else "")
            )

    def init(self, key: Array, vocab_size: int) -> dict:
        """{"embeddings": (V, D)}."""
        return {"embeddings": normal(key, (vocab_size, self.width))}

    def table(self, params: dict, vocab_size: int) -> Array:
        """E, (V, D); before training that of `init` with the key 0."""
        params = params or self.init(jax.random.key(0), vocab_size)
        rows = params["embeddings"]
        if self.normalisation == "layer":
            rows = rows - rows.mean(-1, keepdims=True)
        return rows if self.normalisation == "none" else _normalised(rows)


@dataclass(frozen=True)
class OneHot:
    """A vector of its own for each token, one entry sqrt(V) and the others 0."""

    learned: ClassVar[bool] = False

    def columns(self, vocab_size: int | None) -> int | None:
        """V; None until the data has been read."""
        return vocab_size

    def check(self, vocab_size: int | None) -> None:
        """Nothing: they fit any vocabulary."""

    def init(self, key: Array, vocab_size: int) -> dict:
        """{}."""
        return {}

    def table(self, params: dict, vocab_size: int) -> Array:
        """E, (V, V)."""
        return _normalised(jnp.eye(vocab_size))


def _normalised(table):
    """Rows of norm sqrt(D), so that entries of z have variance about 1 at all times."""
    norm = jnp.linalg.norm(table, axis=-1, keepdims=True)
    return table / jnp.maximum(norm, 1e-8) * table.shape[-1] ** 0.5


class GaussianProcess(FlowProcess, TransitionProcess, TimeIntegral):
    """All of a normal process but its settings: a subclass has `vocab_size`, `schedule` and `head`, and
    gives its embeddings."""

    vocab_size: int | None
    schedule: LogSNR
    head: Head
    """What the network holds: "posterior", p(x0 | z_t), or "leave_one_out", without what z says of its
    own position."""
    first_time: float = 0.0
    """The time of the state that the bound reads the tokens off."""
    states: ClassVar[str] = "vectors"
    likelihood: ClassVar[Kind] = "bound"

    @property
    @abstractmethod
    def embeddings(self) -> Array:
        """E, float (V, D)."""

    @property
    def space(self) -> Vectors:
        return Vectors(self.embeddings)

    def gamma(self, t: Array, length: int) -> Array:
        """-log SNR at t of the positions of a text of so many: (B, 1) of all, or (B, L)."""
        return self.schedule.gamma(t)

    def rate(self, t: Array, length: int) -> Array:
        """d gamma / dt, of the shape of `gamma`."""
        return self.schedule.rate(t)

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        return normal(key, (*shape, self.embeddings.shape[1]))

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        return self.corrupt_to(key, x0, self.gamma(t, x0.shape[1]))

    def corrupt_to(self, key: Array, x0: Array, gamma: Array) -> Array:
        """z of -log SNR gamma, (B, 1) or (B, L)."""
        x, gamma = self.embeddings[x0], gamma[..., None]
        noise = normal(key, x.shape, gamma.dtype)
        return alpha_at(gamma) * x + sigma_at(gamma) * noise

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        return self.predict_at(out, z, self.gamma(t, z.shape[1]))

    def predict_at(self, out: Array, z: Array, gamma: Array) -> Array:
        """As `predict`, at -log SNR gamma."""
        if self.head == "posterior":
            return log_softmax(out)
        return log_softmax(log_softmax(out) + self._evidence(z, gamma))

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        return log_p0 if self.head == "posterior" else log_divide(log_p0, self.log_likelihood(z, t))

    def log_likelihood(self, z: Array, t: Array) -> Array:
        return self._evidence(z, self.gamma(t, z.shape[1]))

    def _evidence(self, z, gamma):
        # alpha / sigma^2 = e^-gamma / alpha
        gamma = gamma[..., None]
        return jnp.exp(-gamma) * self._closeness(z / alpha_at(gamma), 1.0)

    def _closeness(self, y, share):
        """y.E_v - share |E_v|^2 / 2, (B, L, V)."""
        table = self.embeddings.astype(y.dtype)
        return y @ table.T - share * (table**2).sum(-1)[None, None] / 2

    def mean(self, log_p0: Array) -> Array:
        """xhat, (B, L, D): the mean embedding."""
        return jnp.exp(log_p0) @ self.embeddings.astype(log_p0.dtype)

    def sharpened(self, x: Array, z: Array, t: Array, temperature: float) -> Array:
        """The estimate x (B, L, D) of the data for which z holds 1 / temperature times the noise."""
        scale = alpha_at(self.gamma(t, z.shape[1])[..., None])
        return x + (1 - 1 / temperature) * (z / scale - x)

    def error(self, log_p0: Array, x0: Array, gamma: Array) -> Array:
        """1/2 e^-gamma |e(x0) - xhat|^2, (B, L): nats per unit of gamma."""
        gap = self.embeddings[x0] - self.mean(log_p0)
        return jnp.exp(-gamma) / 2 * jnp.sum(gap**2, axis=-1)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        log_p0, length = self.predict(out, z, t), z.shape[1]
        return self.rate(t, length) * self.error(log_p0, x0, self.gamma(t, length))

    def prior_term(self, x0: Array, dtype: jnp.dtype) -> Array:
        """KL(q(z_1 | x0) || N(0, I)), (B, L) nats."""
        end = self.schedule.gamma(jnp.ones((1, 1), dtype))
        squares, width = (self.embeddings**2).sum(-1)[x0], self.embeddings.shape[1]
        return (jax.nn.sigmoid(-end) * (squares - width) + width * jax.nn.softplus(-end)) / 2

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        key_diffusion, key_start = split(key)
        t, start = self.time(u), jnp.full_like(u, self.first_time)
        z = self.corrupt(key_start, x0, start)

        def of_token(out, x0, z, t):
            return -gather_last(self.predict(out, z, t), x0)

        return {
            "diffusion": self.loss_of(model, x0, self.corrupt(key_diffusion, x0, t), t),
            "reconstruction": at_positions(model, of_token, None, x0, z, start),
            "prior": self.prior_term(x0, u.dtype),
        }

    def _step(self, z, t, s):
        """(gamma at t, at s, 1 - c, c), each (B, 1 or L, 1)."""
        now, then = (self.gamma(time, z.shape[1])[..., None] for time in (t, s))
        return now, then, *_shares(now, then)

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        return self.bridge_to(key, self.embeddings[x0].astype(z.dtype), z, t, s)

    def bridge_to(self, key: Array, x: Array, z: Array, t: Array, s: Array) -> Array:
        """z_s ~ q(z_s | z_t, x) of any x (B, L, D) in the place of an embedding."""
        now, then = (self.gamma(time, z.shape[1])[..., None] for time in (t, s))
        return step_back(key, x, z, now, then)

    def log_transition(self, log_p0, x0, z, z_s, t, s):
        """As the interface, of the step that draws a token and then its bridge."""
        now, then, kept, gained = self._step(z, t, s)
        # log q(z_s | z_t, v) = alpha_s^2 / sigma_s^2 (y.E_v - c |E_v|^2 / 2) + a constant.
        y = z_s / alpha_at(then) - kept * z / alpha_at(now)
        log_q = jnp.exp(-then) * self._closeness(y, gained)
        return jax.nn.logsumexp(log_p0 + log_q, axis=-1) - gather_last(log_q, x0)

    def velocity(self, log_p0: Array, z: Array, t: Array) -> Array:
        gamma, rate = (f(t, z.shape[1])[..., None] for f in (self.gamma, self.rate))
        alpha = alpha_at(gamma)
        return rate / 2 * alpha * (alpha * z - self.mean(log_p0))

    def flow(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        now, then, *_ = self._step(z, t, s)
        ratio = sigma_at(then) / sigma_at(now)
        return ratio * z + (alpha_at(then) - alpha_at(now) * ratio) * self.mean(log_p0)


def step_back(key: Array, x: Array, z: Array, now: Array, then: Array) -> Array:
    """z_s ~ q(z_s | z_t, x), of the shape of x and z, from -log SNR `now` at t to `then` at s, which
    broadcast to it."""
    kept, gained = _shares(now, then)
    mean = alpha_at(then) * (kept * z / alpha_at(now) + gained * x)
    return mean + sigma_at(then) * jnp.sqrt(gained) * normal(key, z.shape, z.dtype)


def _shares(now, then):
    """(1 - c, c) of a step, c = 1 - exp(gamma_s - gamma_t)."""
    gained = jnp.minimum(then - now, 0)
    return jnp.exp(gained), -jnp.expm1(gained)


def alpha_at(gamma: Array) -> Array:
    """sigmoid(-gamma)^1/2, how much of the data is in a state of -log SNR gamma."""
    return jnp.exp(jax.nn.log_sigmoid(-gamma) / 2)


def sigma_at(gamma: Array) -> Array:
    """sigmoid(gamma)^1/2, how much noise is."""
    return jnp.exp(jax.nn.log_sigmoid(gamma) / 2)
