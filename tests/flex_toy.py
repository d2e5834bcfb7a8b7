"""Strings of at most three letters a and b, and all that can be said of them, by enumeration in numpy:
what is present of each at a time, the exact denoiser with its gaps, and the error of the bound."""

import math
from itertools import product

import numpy as np

A_AND_B, MASK, ABSENT, LONGEST = 2, 2, 3, 3


def strings(size):
    """Every string of at most three of `size` symbols, the shorter first."""
    return [s for n in range(LONGEST + 1) for s in product(range(size), repeat=n)]


class Strings:
    """p over the texts, and for every text and every pattern of what is present of it (R,): its text,
    the state, the gaps (R, 4) and the tokens at the state's positions (R, 3), -1 where there is none."""

    def __init__(self, seed=7, longer_than=-1):
        self.texts, self.states = strings(A_AND_B), strings(A_AND_B + 1)
        p = np.random.default_rng(seed).dirichlet(np.ones(len(self.texts)))
        self.p = p * [len(text) > longer_than for text in self.texts]
        self.p /= self.p.sum()
        self.entropy = -sum(q * np.log(q) for q in self.p if q)
        number = {z: n for n, z in enumerate(self.states)}
        rows = [
            (x, pattern)
            for x, text in enumerate(self.texts)
            for pattern in product((ABSENT, MASK, 0), repeat=len(text))
        ]
        self.text = np.array([x for x, _ in rows])
        self.pattern = [pattern for _, pattern in rows]
        self.x0 = np.zeros((len(rows), LONGEST), int)
        self.in_place = np.full((len(rows), LONGEST), ABSENT)  # as `FlexMDM.corrupt` gives it
        self.gaps = np.full((len(rows), LONGEST + 1), -1)
        self.tokens = np.full((len(rows), LONGEST), -1)
        state = []
        for row, (x, pattern) in enumerate(rows):
            text = self.texts[x]
            self.x0[row, : len(text)] = text
            there = [i for i, what in enumerate(pattern) if what != ABSENT]
            symbols = [text[i] if pattern[i] == 0 else MASK for i in there]
            self.in_place[row, there] = symbols
            self.tokens[row, : len(there)] = [text[i] for i in there]
            edges = [-1, *there, len(text)]
            self.gaps[row, : len(there) + 1] = np.diff(edges) - 1
            state.append(number[tuple(symbols)])
        self.state = np.array(state)
        self.lengths = np.array([len(text) for text in self.texts])

    def weights(self, b):
        """q(pattern | text) of each row where a share b is absent, (R,)."""
        chance = {ABSENT: b, MASK: -b * np.log(b), 0: 1 - b + b * np.log(b)}
        return np.array([np.prod([chance[what] for what in pattern]) for pattern in self.pattern])

    def mean(self, values, weights, by):
        """The mean of values (R, ...) over the rows of equal `by` (R,), for each row; 0 / 0 is 0."""
        sums = np.zeros((by.max() + 1, *values.shape[1:]))
        total = np.zeros(by.max() + 1)
        np.add.at(sums, by, weights.reshape(-1, *[1] * (values.ndim - 1)) * values)
        np.add.at(total, by, weights)
        shape = (-1, *[1] * (values.ndim - 1))
        return (sums / np.maximum(total, 1e-300).reshape(shape))[by]

    def denoiser(self, b, opened=(True,) * (LONGEST + 1)):
        """out (40, 3, 4) of every state: the exact log of p(token), and of what is missing after and
        before over b; nothing is in the gaps that are not open."""
        closed = ((self.gaps > 0) & ~np.array(opened)).any(1)
        joint = np.where(closed, 0, self.p[self.text] * self.weights(b))
        gaps = self.mean(self.gaps, joint, self.state)
        tokens = self.mean(np.eye(A_AND_B + 1)[self.tokens][..., :A_AND_B], joint, self.state)
        out = np.zeros((len(self.states), LONGEST, A_AND_B + 2))
        with np.errstate(divide="ignore"):
            out[self.state, :, :A_AND_B] = np.maximum(np.log(tokens), -1e30)
            out[self.state, :, A_AND_B] = np.log(np.maximum(gaps[:, 1:], 1e-300) / b)
            out[self.state, :, A_AND_B + 1] = np.log(np.maximum(gaps[:, :1], 1e-300) / b)
        return out

    def excess(self, b):
        """What the alignment leaves open, in the mean over texts: the integrand of the bound's error
        times b, where w = 1 / b."""
        joint = self.p[self.text] * self.weights(b)
        both = self.text * len(self.states) + self.state

        def x_log_x(x):
            return np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0)

        mean = self.mean(self.gaps, joint, both)
        gaps = (self.mean(x_log_x(self.gaps), joint, both) - x_log_x(mean)).sum(1)
        at = self.mean(np.eye(A_AND_B + 1)[self.tokens], joint, both)[..., :A_AND_B]
        masked = np.array([[s == MASK for s in z] + [False] * (3 - len(z)) for z in self.states])
        entropies = -(x_log_x(at).sum(-1) * masked[self.state]).sum(1)
        return joint @ (gaps + entropies)

    def numbers(self, x0):
        """The number of each text, from rows x0 (B, 3) with -1 after the end."""
        number = {text: n for n, text in enumerate(self.texts)}
        return np.array(
            [number[tuple(v for v in row if v >= 0)] for row in np.asarray(x0).tolist()]
        )

    def sampled(self, steps, start=(), open_gaps=None, whole=True, told=True):
        """The distribution over texts of `samplers.insertion` with the exact denoiser, (15,), by its
        steps from one of its states to the next, from `start`; whole: whether the last inserts all that
        is missing, and one more call reveals it; else it inserts nothing. told: whether the denoiser is
        told which gaps are open."""
        number = {z: n for n, z in enumerate(self.states)}
        distribution = {(start, open_gaps or (True,) * (len(start) + 1)): 1.0}
        for k in range(steps + whole):
            b, then = 1 - k / steps, max(1 - (k + 1) / steps, 0)
            b, after, exact = min(max(b, 1e-12), 1 - 1e-12), {}, {}
            chance = 1 - then / b
            share = chance if k < steps + whole - 1 else 0
            for (z, opened), p in distribution.items():
                seen = padded(opened) if told else (True,) * (LONGEST + 1)
                if seen not in exact:
                    exact[seen] = np.exp(self.denoiser(b, seen))
                for new, q in _moves(z, opened, exact[seen][number[z]], chance, b * share):
                    after[new] = after.get(new, 0) + p * q
            distribution = after
        result = np.zeros(len(self.texts))
        for (z, _), p in distribution.items():
            result[self.texts.index(z)] += p
        return result


def padded(opened):
    """The open gaps of a state, and as many as there are at most, which it does not have."""
    return (*opened, *(True,) * (LONGEST + 1 - len(opened)))


def _moves(z, opened, out, chance, share):
    """((state, open gaps), probability) after a step from the state z."""
    tokens = [
        [(MASK, 1 - chance), (0, chance * out[i, 0]), (1, chance * out[i, 1])]
        if symbol == MASK
        else [(symbol, 1.0)]
        for i, symbol in enumerate(z)
    ]
    means = [share * out[0, A_AND_B + 1]] + [share * out[i, A_AND_B] for i in range(len(z))]
    means = [mean * is_open for mean, is_open in zip(means, opened, strict=True)]
    for chosen in product(*tokens):
        for counts, q in _inserted(means, LONGEST - len(z)):
            new, gaps = (MASK,) * counts[0], (opened[0],) * (counts[0] + 1)
            for (symbol, _), count, is_open in zip(chosen, counts[1:], opened[1:], strict=True):
                new, gaps = (*new, symbol, *[MASK] * count), gaps + (is_open,) * (count + 1)
            p = q * np.prod([chance for _, chance in chosen])
            if p > 0:
                yield (new, gaps), p


def _inserted(means, room):
    """(how many are inserted in each gap, probability), from the left what fits."""
    if not means:
        yield (), 1.0
        return
    below = [np.exp(-means[0]) * means[0] ** n / math.factorial(n) for n in range(room)]
    for count, p in enumerate([*below, 1 - sum(below)]):
        for rest, q in _inserted(means[1:], room - count):
            yield (count, *rest), p * q
