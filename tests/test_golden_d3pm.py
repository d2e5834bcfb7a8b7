"""D3PM against numbers of the official text and image code, in float64.

The two official codes store columns or rows, count steps from 0 or from -1, and put the mask last or in
the middle. `cases` brings both to our conventions: step k = 1..T leads from z_(k-1) to z_k at t = k / T,
the rows of a matrix sum to one, the mask is the last state, positions are (B, L).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, reduce

import jax
import numpy as np
import pytest
from conftest import reference

from diffusion.betas import (
    CosineBetas,
    LinearBetas,
    MutualInformation,
    ReciprocalBetas,
)
from diffusion.d3pm import D3PM
from diffusion.dense import BandDiagonal, Gaussian, Masked, Matrix, NearestNeighbour
from diffusion.kernels import Absorbing, Uniform
from diffusion.numerics import divergence, log_softmax

LN2 = np.log(2)
both_files = pytest.mark.parametrize("load", ["text", "images"])


@dataclass(frozen=True)
class Given:
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


def test_beta_schedules_of_the_image_code():
    a = reference("d3pm_images")
    ours = {
        "linear": LinearBetas(*a["linear_start_stop"]),
        "cosine": CosineBetas(),
        "jsd": ReciprocalBetas(),
    }
    for name, schedule in ours.items():
        golden = a[f"betas_{name}"]
        betas = schedule.betas(len(golden), Uniform(), a["logits"].shape[-1])
        np.testing.assert_allclose(betas, golden, rtol=1e-12, err_msg=name)


def test_beta_schedules_of_the_text_code():
    a = reference("d3pm_text")
    T = len(a["betas_linear"])
    assert a["betas_linear"][-1] < a["beta_min_max"][1]
    ours = {
        "linear": text_linear(a, T),
        "cosine": CosineBetas(),
        "standard": ReciprocalBetas(),
    }
    for name, schedule in ours.items():
        betas = schedule.betas(T, Uniform(), a["logits"].shape[-1])
        np.testing.assert_allclose(betas, a[f"betas_{name}"], rtol=1e-12, err_msg=name)


@both_files
def test_one_step_matrices(load, x64):
    for c in cases(load):
        process, T = c.process, c.T
        np.testing.assert_allclose(c.matrices[0], c.steps, err_msg=c.name, **c.precision)
        if not isinstance(process.kernel, Absorbing | Uniform):
            betas = process.schedule.betas(T, process.kernel, process.vocab_size)
            ours = process.kernel.steps(betas, process.vocab_size)
            np.testing.assert_allclose(ours, c.steps, err_msg=c.name, **c.precision)


@both_files
def test_products_of_the_steps(load, x64):
    overwritten = []
    for c in cases(load):
        T, ours = c.T, c.matrices[1]
        np.testing.assert_allclose(ours[:T], c.products[:T], err_msg=c.name, **c.precision)
        if c.marginal is not None:
            np.testing.assert_allclose(ours[c.k, c.x0], c.marginal, err_msg=c.name, **c.precision)
        # The text code overwrites Qbar_T of the uniform and of the absorbing kernel by the stationary
        # distribution, and has none of the Gaussian (it reads the one before). Ours is the product, so
        # that what the schedule leaves is drawn, and counted by the prior term.
        np.testing.assert_allclose(ours[T], c.end, err_msg=c.name, **c.precision)
        if len(c.products) > T and np.abs(c.products[T] - c.end).max() > 1e-12:
            overwritten.append(c.process)
            limit = np.exp(c.process.kernel.log_stationary(c.process.vocab_size))
            np.testing.assert_allclose(c.products[T], np.tile(limit, (len(limit), 1)), rtol=1e-12)
    assert bool(overwritten) == (load == "text")
    assert all(isinstance(process.schedule, CosineBetas) for process in overwritten)


@both_files
def test_posterior_and_reverse_step(load, x64):
    for c in cases(load):
        rows = c.general
        for i, golden in ((1, c.posterior), (2, c.reverse)):
            step, other = c.factors[0], c.factors[i]
            official = bayes(step, other, c.guard)
            np.testing.assert_allclose(
                official[rows], golden[rows], rtol=0, atol=1e-9, err_msg=c.name
            )
            # Ours has no guard: a / A and (a + d) / (A + D) differ by at most D / A.
            ours = np.exp(log_softmax(c.logs[0] + c.logs[i]))
            extra = (c.guard * (step + other + c.guard)).sum(-1)
            bound = extra / (step * other).sum(-1) + 1e-9
            assert (np.abs(ours - golden).max(-1) <= bound)[rows].all(), c.name


@both_files
def test_kl_term_of_each_step(load, x64):
    for c in cases(load):
        rows = c.general
        step, data, model = c.factors
        with np.errstate(divide="ignore"):
            official = divergence(*(np.log(bayes(step, x, c.guard)) for x in (data, model)))
        ours = divergence(*(log_softmax(c.logs[0] + x) for x in c.logs[1:]))
        np.testing.assert_allclose(
            c.measure(official)[rows], c.loss[rows], rtol=1e-9, atol=1e-9, err_msg=c.name
        )
        step, data, model = c.golden_factors
        expected = kl(bayes(step, data), bayes(step, model))
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9, err_msg=c.name)


@both_files
def test_token_loss_of_kernels_without_a_mask(load, x64):
    checked = 0
    for c in cases(load):
        if c.masked:  # the golden network speaks of the mask too, ours never do
            continue
        loss = c.process.token_loss(c.logits, c.x0, c.z, c.k / c.T) / c.T
        step, data, model = c.golden_factors
        expected = kl(bayes(step, data), bayes(step, model))
        np.testing.assert_allclose(loss, expected, rtol=1e-9, atol=1e-9, err_msg=c.name)
        if c.guard == 0:  # the image code's guard of 1e-6: see `test_kl_term_of_each_step`
            np.testing.assert_allclose(loss, c.loss, rtol=1e-9, atol=1e-9, err_msg=c.name)
        checked += 1
    assert checked > 2


@both_files
def test_first_step_takes_the_head_as_leave_one_out(load, x64):
    for c in cases(load):
        first = np.flatnonzero(c.k[:, 0] == 1)
        assert len(first)
        x0, z, p0 = c.x0[first], c.z[first], c.p0[first]
        log_p = np.asarray(log_softmax(c.logs[0] + c.logs[2]))[first]
        expected = bayes(p0, c.steps[0].T[z])  # softmax(logits) q(z_1 | x0)
        np.testing.assert_allclose(np.exp(log_p), expected, rtol=0, atol=1e-9, err_msg=c.name)
        if c.guard == 0:  # so does the text code
            np.testing.assert_allclose(
                -chosen(log_p, x0), c.loss[first], rtol=1e-9, atol=1e-12, err_msg=c.name
            )
        else:
            # The image code reads the same head as p(x0 | z_1) in this one step, without the factor
            # q(z_1 | x0): plain cross entropy. The mathematics wins, so ours is another number.
            np.testing.assert_allclose(c.reverse[first], p0, rtol=1e-9, err_msg=c.name)
            official = c.measure(c.cross_entropy)[first]
            np.testing.assert_allclose(official, c.loss[first], rtol=1e-9, err_msg=c.name)
        if not c.masked:
            t = np.full((len(first), 1), 1 / c.T)
            ours = np.exp(c.process.predict(c.logits[first], z, t))
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9, err_msg=c.name)


@both_files
def test_hybrid_term(load, x64):
    checked = 0
    for c in cases(load):
        # The official loss is the term of one step, KL + lambda CE; ours is T times that.
        ce = c.measure(c.cross_entropy)
        weight = float(np.median(c.hybrid / ce))
        np.testing.assert_allclose(c.hybrid, weight * ce, rtol=1e-7, err_msg=c.name)
        if not isinstance(c.process.kernel, Uniform):  # nothing in the term depends on the kernel
            continue
        u = (c.k - 0.5) / c.T
        args = jax.random.key(0), lambda z, t, c=c: c.logits, c.x0, u
        added = replace(c.process, hybrid=weight).loss(*args) - c.process.loss(*args)
        np.testing.assert_allclose(
            c.measure(added / c.T), c.hybrid, rtol=1e-7, atol=1e-9, err_msg=c.name
        )
        checked += 1
    assert checked


@both_files
def test_prior_term(load, x64):
    checked = 0
    for c in cases(load):
        V, S, end = c.process.vocab_size, c.steps.shape[-1], c.end
        x0 = c.x0[: c.rows]
        # Ours is against the mean of the rows of Qbar_T over the tokens, from which z_T is drawn.
        value = c.process.prior_term(x0, np.float64).get("prior", np.zeros(x0.shape))
        expected = kl(end[x0], end[:V].mean(0))
        token = x0 < V  # some golden data is the mask itself
        np.testing.assert_allclose(
            value[token], expected[token], rtol=1e-9, atol=1e-12, err_msg=c.name
        )
        if c.prior is None or np.abs(c.products[-1] - end).max() > 1e-12:
            continue  # none is stored, or z_T is taken to be stationary and the term to be 0
        if c.name == "mi_mask":
            continue  # theirs is against the uniform distribution; the process ends at the mask
        # Theirs is against the distribution that the kernel is meant to end in, whether or not it does.
        limit = np.eye(S)[V] if c.masked else np.full(S, 1 / S)
        last = np.exp(c.process.chain.log_marginal(x0, np.ones((c.rows, 1))))
        floor = max(c.guard, 1e-20)
        official = c.measure((last * (np.log(last + floor) - np.log(limit + floor))).sum(-1))
        np.testing.assert_allclose(official, c.prior, rtol=1e-9, atol=1e-9, err_msg=c.name)
        if not c.masked and np.abs(end.sum(0) - 1).max() < 1e-12:
            # Doubly stochastic: the two distributions are one, and only the guard is between the
            # numbers.
            np.testing.assert_allclose(
                c.measure(value), c.prior, rtol=1e-9, atol=1e-9 + S * c.guard / LN2, err_msg=c.name
            )
            checked += 1
    assert checked


def test_nearest_neighbour_rates_and_exponential(x64):
    a = reference("d3pm_text")
    kernel, V = nearest(a), len(a["embeddings"])
    np.testing.assert_allclose(kernel.rates(V), a["nn_rate"], rtol=0, atol=1e-12)
    checked = 0
    for key in a:
        if match := re.fullmatch(r"(nncached_[a-z]+)_base", key):
            unit = np.array([a[f"{match[1]}_min_exponent"]])
            np.testing.assert_allclose(kernel.steps(unit, V)[0], a[key], rtol=0, atol=1e-12)
            checked += 1
    assert checked


def test_information_removal():
    a = reference("d3pm_text")
    p, V = a["initial_distribution"], len(a["initial_distribution"])
    removed = Uniform().information_removal(a["mi_uniform_exponents"], p)
    np.testing.assert_allclose(removed, a["mi_uniform_info_removal"], rtol=1e-9, atol=1e-12)
    e, golden = a["mi_mask_info_removal_grid"]
    removed = Absorbing().information_removal(e, a["initial_distribution_mask"][: V - 1])
    np.testing.assert_allclose(removed, golden, rtol=1e-9, atol=1e-12)
    # The official exponents solve removal = k / (T + 1) by cubic interpolation between some 128 from
    # 1e-4 to 1e5, a factor of 1.18 apart: they miss by 1e-5, and we allow ten times that and more.
    e = a["mi_nn_exponents"]
    wanted = np.arange(len(e)) / len(e)
    np.testing.assert_allclose(nearest(a).information_removal(e, p), wanted, rtol=0, atol=2e-4)


def test_mutual_information_exponents():
    a = reference("d3pm_text")
    p, V = a["initial_distribution"], len(a["initial_distribution"])
    # Official: removal k / (T + 1), k = 1..T, and no step that removes all. Ours: k / T, and the last
    # step does. So the T of theirs are the first of our T + 1. Tolerance: their interpolation.
    for name, kernel in (("uniform", Uniform()), ("nn", nearest(a))):
        golden = a[f"mi_{name}_exponents"][1:]
        wanted = np.arange(1, len(golden) + 1) / (len(golden) + 1)
        found = kernel.exponents(wanted, p)
        np.testing.assert_allclose(found, golden, rtol=5e-4, err_msg=name)
        np.testing.assert_allclose(kernel.information_removal(found, p), wanted, rtol=1e-5)
        betas = MutualInformation(tuple(p)).betas(len(golden) + 1, kernel, V)[:-1]
        noise = betas if name == "nn" else -np.log1p(-betas)
        np.testing.assert_allclose(np.cumsum(noise), golden, rtol=5e-4, err_msg=name)
    # The nearest-neighbour ones are rounded to multiples of the first.
    assert (np.abs(found / found[0] - a["mi_nn_powers"][1:]) < 0.5 + 5e-4 * found / found[0]).all()


def test_mutual_information_of_the_absorbing_kernel_needs_no_data():
    a = reference("d3pm_text")
    p = a["initial_distribution_mask"]
    assert p[-1] == 0
    golden = a["mi_mask_exponents"]  # the last step masks all, its exponent repeats the one before
    T = len(golden) - 1
    betas = MutualInformation(tuple(p[:-1])).betas(T, Absorbing(), len(p) - 1)
    np.testing.assert_allclose(betas, 1 / (T - np.arange(T)), rtol=1e-12)
    noise = np.cumsum(-np.log1p(-betas[:-1]))
    np.testing.assert_allclose(noise, golden[1:-1], rtol=5e-4)  # their interpolation
