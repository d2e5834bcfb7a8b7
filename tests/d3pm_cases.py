"""The golden arrays of the official text and image code of D3PM, in our conventions.

The two official codes store columns or rows, count steps from 0 or from -1, and put the mask last or in
the middle. `cases` brings both to our conventions: step k = 1..T leads from z_(k-1) to z_k at t = k / T,
the rows of a matrix sum to one, the mask is the last state, positions are (B, L).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, reduce

import jax
import numpy as np
from conftest import reference

from diffusion.betas import (
    Betas,
    CosineBetas,
    LinearBetas,
    ReciprocalBetas,
)
from diffusion.d3pm import D3PM
from diffusion.dense import BandDiagonal, Gaussian, Masked, Matrix, NearestNeighbour
from diffusion.kernels import Absorbing, Uniform

LN2 = np.log(2)


@dataclass(frozen=True)
class Given(Betas):
    """A schedule of numbers: where the official one is none of ours, or in other units."""

    values: tuple[float, ...]

    def betas(self, num_steps, kernel, vocab_size):
        assert len(self.values) == num_steps
        return np.array(self.values)


@dataclass(frozen=True)
class Case:
    """One kernel with one schedule: our process, and the official numbers of N steps x B rows."""

    name: str
    process: D3PM
    steps: np.ndarray  # (T, S, S): Q_1..Q_T
    products: np.ndarray  # (T + 1, S, S), or (T, S, S) where the end is not stored: Qbar_0, ...
    rows: int  # B
    k: np.ndarray  # (N B, 1)
    x0: np.ndarray  # (N B, L)
    z: np.ndarray  # (N B, L): z_k
    logits: np.ndarray  # (N B, L, S), a column for the mask included
    marginal: np.ndarray | None  # (N B, L, S): q(z_k | x0)
    posterior: np.ndarray  # (N B, L, S): q(z_(k-1) | z_k, x0)
    reverse: np.ndarray  # (N B, L, S): p(z_(k-1) | z_k)
    loss: np.ndarray  # KL, at k = 1 the term -log p(x0 | z_1), as `measure` gives it
    hybrid: np.ndarray  # lambda CE, as `measure` gives it
    prior: np.ndarray | None  # KL(q(z_T | x0) || stationary distribution), as `measure` gives it
    guard: float  # what the official code adds to probabilities before it takes logs
    measure: Callable  # (..., L) nats to the unit of the file

    @property
    def T(self):
        return len(self.steps)

    @property
    def masked(self):
        return isinstance(self.process.kernel, Absorbing | Masked)

    @property
    def general(self):
        """The rows whose official numbers come from the formula of all steps."""
        return (self.k[:, 0] > 1) | (self.guard == 0)

    @cached_property
    def p0(self):
        return np.asarray(jax.nn.softmax(self.logits, axis=-1))

    @cached_property
    def logs(self):
        """Ours, (N B, L, S): log of q(z_k | z_(k-1)), q(z_(k-1) | x0), sum_x p0(x) q(z_(k-1) | x)."""
        chain, t, s = self.process.chain, self.k / self.T, (self.k - 1) / self.T
        distributions = (
            chain.log_step(self.z, t, s),
            chain.log_marginal(self.x0, s),
            chain.log_mix(np.log(self.p0), s),
        )
        return [np.asarray(x) for x in distributions]

    @property
    def factors(self):
        return [np.exp(x) for x in self.logs]

    @cached_property
    def matrices(self):
        """Ours: Q_1..Q_T and Qbar_0..Qbar_T, as the chain has them."""
        chain, (T, S) = self.process.chain, self.steps.shape[:2]
        t = np.arange(T + 1)[:, None] / T
        states = np.broadcast_to(np.arange(S), (T + 1, S))
        columns = np.exp(chain.log_step(states, t, t - 1 / T))[1:]  # [k, z_k, z_(k-1)]
        return columns.transpose(0, 2, 1), np.exp(chain.log_marginal(states, t))

    @cached_property
    def golden_factors(self):
        """The same three from the golden matrices."""
        mixed = np.einsum("nlv,nvs->nls", self.p0, self.products[self.k[:, 0] - 1])
        step = self.steps.transpose(0, 2, 1)[self.k - 1, self.z]
        return step, self.products[self.k - 1, self.x0], mixed

    @property
    def cross_entropy(self):
        return -np.log(chosen(self.p0, self.x0))

    @property
    def end(self):
        """Q_1 ... Q_T, which is not Qbar_T where the official table is overwritten."""
        return reduce(np.matmul, self.steps)

    @property
    def precision(self):
        """Of a Gaussian every digit of the smallest entries; of an exponential of a matrix, absolute."""
        kernel = getattr(self.process.kernel, "base", self.process.kernel)
        return {"rtol": 1e-9, "atol": 1e-290 if isinstance(kernel, Gaussian) else 1e-12}


def bayes(a, b, guard=0.0):
    """a b / sum a b; the official code adds `guard` to both."""
    both = (a + guard) * (b + guard)
    return both / both.sum(-1, keepdims=True)


def chosen(p, x):
    """p[..., x], (..., L)."""
    return np.take_along_axis(p, x[..., None], -1)[..., 0]


def kl(q, p):
    present = q > 1e-100
    ratio = np.where(present, q, 1) / np.where(present, p, 1)
    return np.sum(np.where(present, q * np.log(ratio), 0), -1)


@cache
def cases(load) -> list[Case]:
    found = list({"text": text_cases, "images": image_cases}[load]())
    assert len(found) > 2
    return found


def names(a):
    return [match[1] for key in a if (match := re.fullmatch(r"(.+)_Q", key))]


def stacked(a, name, state):
    """The times of a kernel's groups `_t<k>`, and what stacks one of their arrays along the batch."""
    times = sorted(
        int(match[1]) for key in a if (match := re.fullmatch(rf"{name}_t(\d+)_{state}", key))
    )
    return times, lambda field: np.concatenate([a[f"{name}_t{t}_{field}"] for t in times])


def case(name, kernel, schedule, products, steps, times, rows, x0, z, logits, **golden):
    T, S = steps.shape[:2]
    V = S - 1 if isinstance(kernel, Absorbing | Masked) else S
    schedule = schedule(T, V) if callable(schedule) else schedule
    return Case(
        name=name,
        process=D3PM(V, kernel, schedule, T),
        steps=steps,
        products=products,
        rows=rows,
        k=np.repeat(np.array(times) + 1, rows)[:, None],
        x0=np.tile(x0, (len(times), 1)),
        z=z,
        logits=np.tile(logits, (len(times), 1, 1)),
        **golden,
    )


def scaled(schedule, factor):
    """`schedule` times factor(V): the scale of the Gaussian, which each code takes otherwise."""

    def build(T, V):
        return Given(tuple(factor(V) * schedule.betas(T, Gaussian(), V)))

    return build


def text_linear(a, T):
    low, high = a["beta_min_max"]
    return LinearBetas(low, low + (high - low) * (T - 1) / T)  # k / T: high is never reached


def nearest(a):
    return NearestNeighbour(int(a["knn"]), tuple(map(tuple, a["embeddings"])))


def band(width, S):
    """The official band of the text code, rows to one: asymmetric where the width is even."""
    i, j = np.indices((S, S))  # column convention: j to i
    inside = (j - i > -np.ceil(width / 2)) & (j - i <= width // 2)
    return (inside / inside.sum(0)).T


def text_kernel(a, name):
    """Our kernel and schedule for the official ones called `name`."""
    T, S = a[f"{name}_Q"].shape[:2]
    what, _, how = name.rpartition("_")
    if what == "mi":  # sums of -log(1 - beta), by which the information falls linearly
        if how == "nn":
            unit = a["mi_nn_exponents"][1]
            return nearest(a), Given(tuple(unit * np.diff(a["mi_nn_powers"])))
        betas = -np.expm1(-np.diff(a[f"{name}_exponents"]))
        if how == "mask":
            betas[-1] = 1  # the code repeats the last exponent, and masks all in that step
        return {"uniform": Uniform(), "mask": Absorbing()}[how], Given(tuple(betas))
    schedule = {
        "linear": text_linear(a, T),
        "cosine": CosineBetas(),
        "standard": ReciprocalBetas(),
    }[how]
    # The code puts V points at 2 d V / (V - 1)^2 where the paper has 2 d / (V - 1).
    gaussian = scaled(schedule, lambda V: ((V - 1) / V) ** 2)
    if what == "nncached":  # sums of beta are rounded to multiples of the smallest
        unit, powers = a[f"{name}_min_exponent"], a[f"{name}_powers"]
        return nearest(a), Given(tuple(unit * np.diff(powers)))
    return {
        "uniform": (Uniform(), schedule),
        "mask": (Absorbing(), schedule),
        "band": (matrix(band(int(a["band_width"]), S)), schedule),
        "gauss": (Gaussian(), gaussian),
        "maskgauss": (Masked(Gaussian()), gaussian),
        "nn_sinkhorn": (matrix(a["nn_sinkhorn_matrix"].T), schedule),
    }[what]


def matrix(P):
    return Matrix(tuple(map(tuple, P)))


def text_cases():
    a = reference("d3pm_text")
    for name in names(a):
        times, of = stacked(a, name, "x_t1")
        kernel, schedule = text_kernel(a, name)
        yield case(
            name,
            kernel,
            schedule,
            a[f"{name}_Qbar"].transpose(0, 2, 1),
            a[f"{name}_Q"].transpose(0, 2, 1),
            times,
            len(a["x0"]),
            a["x0"],
            of("x_t1"),
            a["logits"],
            marginal=None,
            posterior=of("q_posterior"),
            reverse=of("p"),
            loss=of("base"),
            hybrid=of("hybrid"),
            prior=a.get(f"{name}_prior_kl"),
            guard=0.0,  # 1e-20, below the precision of every number here
            measure=np.asarray,
        )


def image_kernel(a, name):
    S = a[f"{name}_Q"].shape[1]
    what, _, how = name.rpartition("_")
    schedule = {
        "linear": LinearBetas(*a["linear_start_stop"]),
        "cosine": CosineBetas(),
        "jsd": ReciprocalBetas(),
    }[how]
    if what == "absorbing":
        return Absorbing(), schedule
    if what == "uniform":
        return Uniform(), schedule
    i, j = np.indices((S, S))
    width = int(np.abs(i - j)[(a[f"{name}_Q"] > 0).any(0)].max())
    if what == "banded":
        return BandDiagonal(width), schedule
    # The values 0..255 stand at 2 d 255 / (K - 1)^2: the paper's 2 d / (K - 1) if K is 256.
    gaussian = scaled(schedule, lambda V: ((V - 1) / 255) ** 2)
    return {"gaussian": Gaussian(), "gaussian_band": Gaussian(width)}[what], gaussian


def image_cases():
    a = reference("d3pm_images")
    rows, K = len(a["x_start"]), a["logits"].shape[-1]
    flat = lambda x: x.reshape(len(x), -1)  # noqa: E731
    for name in names(a):
        times, of = stacked(a, name, "x_t")
        order, mask = np.arange(K), K // 2
        if (a[f"{name}_Q"] == np.eye(K)).all():
            continue  # at few values 255 / (K - 1) is so far that e^-.. is 0: no noise, which we reject
        kernel, schedule = image_kernel(a, name)
        if isinstance(kernel, Absorbing):
            order = np.append(np.delete(order, mask), mask)
        ours = np.argsort(order)  # our number of each official state
        matrices = lambda x, order=order: x[:, order][:, :, order]  # noqa: E731
        states = lambda x, order=order: x.reshape(len(x), -1, K)[..., order]  # noqa: E731
        products = np.concatenate([np.eye(K)[None], matrices(a[f"{name}_Qbar"])])
        yield case(
            name,
            kernel,
            schedule,
            products,
            matrices(a[f"{name}_Q"]),
            times,
            rows,
            ours[flat(a["x_start"])],
            ours[flat(of("x_t"))],
            states(a["logits"]),
            marginal=states(of("q_probs")),
            posterior=states(of("q_posterior_probs")),
            reverse=states(of("p_probs")),
            loss=of("vb_bpd"),
            hybrid=of("hybrid") - of("vb_bpd"),
            prior=a[f"{name}_prior_bpd"],
            guard=1e-6,
            measure=lambda nats: np.asarray(nats).mean(1) / LN2,
        )
