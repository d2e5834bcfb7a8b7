"""What a diffusion process is: the conventions of the whole project, and the interface.

Conventions
- t in [0, 1]: 0 is data, 1 is noise; the reverse step goes from t to s, s < t. A time has rank 2:
  (B, 1), or (B, L) where positions differ.
- V data tokens 0..V-1. Absorbing processes have S = V + 1 states and the mask is id V, the last.
- x0 is data, int (B, L). z is a noisy state: int (B, L), or float (B, L, V) on the simplex.
- out = model(z, t): float (B, L, V), never a mask column; column v at position i always speaks of
  x0[:, i] == v. log_p0 is a normalised log-probability of the same shape.
- Losses and bounds are nats per position, (B, L). Only `experiments/evaluation/units.py` has others.
- A setting that depends on the training data and is None is filled in when the data is read, and stored
  with the run: `vocab_size`, `unigram` (counts of each token), `embeddings` (`experiments.settings`).
- A key is one key, or one key per row of the batch, shape (B,). The trainer, the evaluator and the
  sampler pass one per row, made of the number of the example, so that randomness does not depend on
  how rows are laid out over batches, microbatches and devices.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

import jax

Array = jax.Array
Model = Callable[..., Array]
"""model(z, t, **condition) -> out (B, L, V); parameters and dropout key are already bound.

Some processes ask more of it (`models.transformer.Network`): context=x0 for block diffusion, `cache` and
`decode` for samplers from left to right, `energy`, a second network, for residual energies; `segments`
(B, L), where rows hold several texts, or padding, which is segment 0."""

Likelihood = Literal["exact", "bound", "estimate", "none"]
MOST_STEPS = 2**22  # of a grid of times k / T: float32 gives back k from them up to here


class Objective(Protocol):
    """All that the trainer and the evaluator know.

    An objective may also have: block_length, how many positions at a time the network's attention goes
    from left to right; trained, the top-level names of the parameters that training changes, all
    otherwise; needs_teacher and taught_by; needs_labels; most_steps of a sampler.
    """

    vocab_size: int | None
    likelihood: ClassVar[Likelihood]
    monitor: ClassVar[Literal["bound", "loss"]]  # what evaluations during training measure

    def init(self, key: Array) -> dict:
        """Parameters of the objective itself, trained with the model's; {} where it has none."""

    def bind(self, params: dict) -> "Objective":
        """The objective with the parameters that `init` made and training changed."""

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """(B, L) nats to minimise; u (B, 1) in (0, 1), stratified over the global batch."""

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        """The terms of the bound by name, each (B, L) nats: diffusion, prior, reconstruction."""

    def bound(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """(B, L) nats, the sum of `bound_terms`: E sum_L bound >= -log p(x0)."""


class Process(Objective, Protocol):
    """All that a sampler knows."""

    def time(self, u: Array) -> Array:
        """t (B, 1): the process's own measure on time, a grid for discrete-time processes."""

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        """z_1 for a batch of `shape` (B, L)."""

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        """z_t ~ q(z_t | x0)."""

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        """log p(x0 | z_t), (B, L, V), normalised."""

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        """(B, L) nats: the integrand of the bound at time t."""

    def draw(self, key: Array, model: Model, z: Array, t: Array, transform=None) -> Array:
        """A guess of x0, (B, L), drawn from the model; transform acts on log_p0."""

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        """z_s ~ q(z_s | z_t, x0)."""

    def log_likelihood(self, z: Array, t: Array) -> Array:
        """(B, L, V): log q(z_t^i | x0^i = v), up to a constant per position."""


class JumpProcess(Process, Protocol):
    """A process on discrete states: what Euler, tau-leaping and Gibbs samplers need besides."""

    num_states: int

    def log_posterior(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        """(B, L, S): log p(z_s | z_t), the bridge averaged over log_p0."""

    def log_ratio(self, out: Array, z: Array, t: Array) -> Array:
        """(B, L, S): log p_t(y) / p_t(z) where y is z with one position set to the state."""


class FlowProcess(Process, Protocol):
    """A process on the simplex whose states can also be moved by an ODE."""

    def velocity(self, log_p0: Array, z: Array, t: Array) -> Array:
        """dz / dt, (B, L, V), sums to zero over V."""

    def flow(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        """z at s > 0, one step of the ODE from z at t with log_p0 held fixed."""


class TimeIntegral:
    """The objective of a process whose bound is the mean of `token_loss` over its own times.

    A subclass with boundary terms (prior, reconstruction) adds them to `bound_terms`.
    """

    monitor: ClassVar[str] = "bound"

    def init(self, key):
        return {}

    def bind(self, params):
        return self

    def loss(self, key, model, x0, u):
        t = self.time(u)
        z = self.corrupt(key, x0, t)
        return self.token_loss(model(z, t), x0, z, t)

    def bound_terms(self, key, model, x0, u):
        return {"diffusion": self.loss(key, model, x0, u)}

    def bound(self, key, model, x0, u):
        return sum(self.bound_terms(key, model, x0, u).values())


def check_num_steps(process) -> None:
    """ValueError for a `num_steps` that makes no grid of times; None is continuous time."""
    if process.num_steps is not None and not 1 <= process.num_steps <= MOST_STEPS:
        raise ValueError(
            f"{type(process).__name__}.num_steps = {process.num_steps} must be at least 1 and at most "
            f"{MOST_STEPS}, beyond which float32 does not tell its times apart"
        )
