"""The distribution that each published sampler draws from on a toy, and the bounds of discrete chains,
by enumeration of all states in numpy: nothing of the package is used.

A step is p(s | z) by position, (Z, L, S): from the same z all positions move at once, each on its own.
With the exact denoiser m_l(v) = p(x0_l = v | z) the papers' steps are a few formulas of `toy.p`.
"""

from itertools import pairwise

import numpy as np

# The official samplers step from t = 1 to here, and then remove the noise that is left.
GRID_END = 1e-5


def official_grid(steps):
    return np.linspace(1, GRID_END, steps + 1)


def move(step, states):
    """p(next | z) of whole states, (Z, Z)."""
    return np.prod([step[:, i][:, states[:, i]] for i in range(states.shape[1])], axis=0)


def after(start, steps, states):
    """The distribution over states after the steps, (Z,)."""
    for step in steps:
        start = start @ move(step, states)
    return start


# Masks: states 0..V-1 and V, the mask; the denoiser does not depend on time.


class Masked:
    """A toy under masking: its states (Z, L), its denoiser (Z, L, V), and where samplers start (Z,)."""

    def __init__(self, toy):
        self.toy, self.mask = toy, toy.vocab_size
        self.states = toy.sequences(self.mask + 1)
        seen = self.states[:, None] != self.mask
        agrees = (self.states[:, None] == toy.states) | ~seen
        weights = np.where(agrees.all(-1), toy.p, 0)  # (Z, N)
        self.denoiser = np.einsum("zn,nlv->zlv", weights / weights.sum(1)[:, None], toy.one_hot)
        self.start = (self.states == self.mask).all(1).astype(float)

    def step(self, kept):
        """Each mask stays with probability `kept`, and else becomes a token of the denoiser."""
        stays = np.eye(self.mask + 1)[self.states]
        revealed = np.append(self.denoiser, np.zeros((*self.states.shape, 1)), -1)
        masked = (self.states == self.mask)[..., None]
        return np.where(masked, kept * stays + (1 - kept) * revealed, stays)

    def sequences(self, distribution):
        """Over the sequences (N,), of a distribution that has no masks."""
        return distribution[(self.states != self.mask).all(1)]

    def states_after(self, masked):
        """Ancestral sampling by the shares of masked tokens at its times, from one to the next."""
        steps = [self.step(s / t) for t, s in pairwise(masked)]
        return after(self.start, steps, self.states)

    def denoised(self, distribution):
        return self.sequences(distribution @ move(self.step(0.0), self.states))

    def argmax(self, distribution):
        """The masks that are left become the likeliest tokens."""
        likeliest = np.eye(self.mask + 1)[
            np.where(self.states == self.mask, self.denoiser.argmax(-1), self.states)
        ]
        return self.sequences(distribution @ move(likeliest, self.states))

    def d3pm(self, steps):
        return self.sequences(self.states_after(np.linspace(1, 0, steps + 1)))

    def d3pm_bound(self, steps):
        """The sum over the steps of E_q(z | x0) KL(q(s | z, x0) || p(s | z)), for every x0, (N,)."""
        alpha = 1 - np.arange(steps + 1) / steps
        masked = (self.states == self.mask)[:, None]
        total = np.zeros(len(self.toy.p))
        for before, now in pairwise(alpha):
            agrees = (self.states[:, None] == self.toy.states) | masked
            q = np.where(masked, 1 - now, now) * agrees  # (Z, N, L)
            m = np.einsum("zlv,nlv->znl", self.denoiser, self.toy.one_hot)
            kl = np.where(masked, (before - now) / (1 - now) * -np.log(np.maximum(m, 1e-300)), 0)
            total += (q.prod(-1) * kl.sum(-1)).sum(0)
        return total

    def md4(self, steps, grid):
        """MD4's ancestral sampler: alpha = (1 - 2 eps) (1 - t) + eps, eps = 1e-4, argmax at the end."""
        t = np.linspace(1, 0, steps + 1)
        t = np.cos(np.pi / 2 * (1 - t)) if grid == "cosine" else t
        return self.argmax(self.states_after(1 - ((1 - 2e-4) * (1 - t) + 1e-4)))

    def sedd_tweedie(self, steps):
        return self.denoised(self.states_after(official_grid(steps)))

    def sedd_euler(self, steps):
        """Rates of the log-linear schedule: dsigma / expm1(sigma) = 1 / t."""
        t = official_grid(steps)
        euler = [self.step(1 - (now - then) / now) for now, then in pairwise(t)]
        return self.denoised(after(self.start, euler, self.states))


# Uniform noise: V states; a token stays with probability a, and else is drawn anew from all V.


class Uniform:
    def __init__(self, toy):
        self.toy, self.states, self.size = toy, toy.states, toy.vocab_size
        self.start = np.full(len(toy.p), 1 / len(toy.p))

    def transition(self, kept):
        """q(j | i), (V, V)."""
        return kept * np.eye(self.size) + (1 - kept) / self.size

    def evidence(self, kept):
        """q(z | x0) of whole states, (N, Z)."""
        return move(self.transition(kept)[self.states], self.states)

    def leave_one_out(self, kept):
        """p(x0_l = v | the other positions of z), (Z, L, V)."""
        q, columns = self.transition(kept), []
        for i in range(self.states.shape[1]):
            others = np.delete(np.arange(self.states.shape[1]), i)
            joint = self.toy.p * np.prod(
                [q[self.states[:, j]][:, self.states[:, j]].T for j in others], axis=0
            )  # (Z, N)
            columns.append(joint @ self.toy.one_hot[:, i])
        c = np.stack(columns, 1)
        return c / c.sum(-1, keepdims=True)

    def posterior(self, kept):
        """p(x0_l = v | z), (Z, L, V)."""
        m = self.leave_one_out(kept) * self.transition(kept)[self.states]
        return m / m.sum(-1, keepdims=True)

    def plugged(self, x0, now, then):
        """q(s | z, x0) with a distribution over x0, (Z, L, V), where its formula has one token."""
        step = self.transition(now / then)[self.states]  # q is symmetric: q(z | s), (Z, L, V)
        both = step * (x0 @ self.transition(then))
        return both / both.sum(-1, keepdims=True)

    def mixed(self, now, then):
        """The exact p(s_l | z): the mean of q(s | z, x0) over the posterior, which is the formula with
        the leave-one-out posterior in it."""
        return self.plugged(self.leave_one_out(now), now, then)

    def chain(self, kept, step):
        steps = [step(now, then) for now, then in pairwise(kept)]
        return after(self.start, steps, self.states)

    def d3pm(self, steps):
        return self.chain(np.linspace(0, 1, steps + 1), self.mixed)

    def d3pm_bound(self, steps):
        """The sum over the steps of E_q(z | x0) KL(q(s | z, x0) || p(s | z)), for every x0, (N,)."""
        kept, total = np.linspace(0, 1, steps + 1), np.zeros(len(self.toy.p))
        for now, then in pairwise(kept):
            model, q = self.mixed(now, then), self.evidence(now)
            for n, x0 in enumerate(self.toy.one_hot):
                true = self.plugged(np.broadcast_to(x0, model.shape), now, then)
                with np.errstate(divide="ignore", invalid="ignore"):
                    kl = np.where(true > 0, true * np.log(true / model), 0).sum((1, 2))
                total[n] += q[n] @ kl
        return total

    def udlm(self, steps, head):
        """UDLM's sampler, alpha = 1 - (1 - eps) t, eps = 1e-3; the noise at the end stays."""
        denoiser = {"leave_one_out": self.leave_one_out, "posterior": self.posterior}[head]
        kept = 1 - (1 - 1e-3) * official_grid(steps)
        return self.chain(kept, lambda now, then: self.plugged(denoiser(now), now, then))

    def geometric(self, steps):
        """alpha of SEDD's geometric noise, sigma from 1e-3 to 6, and 1 after its end."""
        t = official_grid(steps)
        return np.append(np.exp(-(1e-3 ** (1 - t)) * 6.0**t), 1.0)

    def sedd_tweedie(self, steps):
        return self.chain(self.geometric(steps), self.mixed)

    def sedd_euler(self, steps):
        """one_hot(z) + dt sigma'(t) / V (p_t(y) / p_t(z) for y, less the sum of them at z), clipped."""
        kept = self.geometric(steps)
        dt = (1 - GRID_END) / steps
        moves = []
        for now in kept[:-2]:
            marginal = self.leave_one_out(now) @ self.transition(now)  # of z_l given the others
            here = np.eye(self.size)[self.states]
            ratio = marginal / (marginal * here).sum(-1, keepdims=True)
            rate = dt * -np.log(now) * np.log(6.0 / 1e-3) / self.size * ratio * (1 - here)
            weights = np.maximum(rate + here * (1 - rate.sum(-1, keepdims=True)), 0)
            moves.append(weights / weights.sum(-1, keepdims=True))
        moves.append(self.mixed(kept[-2], 1.0))
        return after(self.start, moves, self.states)
