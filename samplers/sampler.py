"""The sampling loop: from z_1, step after step, to x0, for all processes and samplers.

A sampler is a frozen dataclass with `run`. Those that go step by step over a whole sequence (`Stepwise`)
share one loop, which runs under `jax.jit` as one program, and say how it goes on (`advance`). Where
steps are at fixed times (`TimedSampler`), `grid` places them. Where a step needs nothing but the state z
and its two times (`GridSampler`), it is a public function, `step`, for loops of one's own.
"""

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.model import Model
from diffusion.numerics import gather_last
from diffusion.process import Objective, Process
from diffusion.random import fold_in, split
from samplers.ending import padded
from samplers.logits_processor import LogitsProcessor
from samplers.modified_denoiser import processed


class Compatibility(NamedTuple):
    """What a sampler is for a process.

    exact: its distribution is that of the model's own reverse process, on the sampler's grid where it
    has one. approximate: it is another distribution, which `why` explains. unsupported: the two do not
    fit.
    """

    kind: Literal["exact", "approximate", "unsupported"]
    why: str


class Frames(NamedTuple):
    """What happened, from the start to the end: n steps, n + 1 frames.

    times (n + 1, B); tokens (n + 1, B, L), on the simplex the most probable one; probability
    (n + 1, B, L): what the model gave, in the step that led here, to the token that stands now; nan
    where it is the mask, and at the start.
    """

    times: Array
    tokens: Array
    probability: Array


class Sampled(NamedTuple):
    """x0, int (B, L); calls, int (B,): of the network for each row; frames where they were asked for."""

    x0: Array
    calls: Array
    frames: Frames | None = None


class Sampler(ABC):
    """How a process's noise becomes text. An implementation is a frozen dataclass of settings."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    requires: ClassVar[type] = Process
    """The class of the processes that it samples from."""
    lacking: ClassVar[str] = "the process has no noisy states"
    """The reason given for a process that is not an instance of `requires`."""
    keeps_frames: ClassVar[bool] = False
    """Whether `run` can trace."""
    inner: "Sampler | None" = None
    """The sampler that this one uses, a setting of those that have one."""
    steps: int | None = None
    """How many steps it takes, a setting of those that have one."""
    cached: bool = False
    """Whether outputs of the network are stored, a setting of those that can."""
    stop: tuple[int, ...] = ()
    """Tokens that end a row (`samplers.ending`), a setting of those that then call the network no
    more."""
    logits_processor: LogitsProcessor = LogitsProcessor()
    """What changes the distribution of each token, a setting of all that draw tokens themselves."""
    weighs_known: ClassVar[bool] = False
    """Whether known tokens decide which states are kept, so that none is taken for a noisy one."""
    guides_steps: ClassVar[bool] = False
    """Whether guidance changes its distribution of a step, not of a token (`samplers.posterior`)."""
    guides_embeddings: ClassVar[bool] = False
    """Whether guidance changes an embedding of the text, by a classifier of embeddings
    (`samplers.plan_and_write`)."""

    def unsupported(self, process: Objective) -> Compatibility | None:
        """The compatibility "unsupported" on a process without what `requires` asks for, else None."""
        return (
            None
            if isinstance(process, self.requires)
            else Compatibility("unsupported", self.lacking)
        )

    @abstractmethod
    def compatibility(self, process: Objective) -> Compatibility:
        """What this sampler is for the process."""

    @abstractmethod
    def calls(self, process: Objective, length: int) -> int:
        """How often the network is called for `length` tokens, at most."""

    def seen_together(self, length: int) -> int:
        """How many positions the network is given at once, at most, for `length` tokens."""
        return length

    @abstractmethod
    def run(
        self,
        key: Array,
        process: Objective,
        model: Model,
        shape: tuple[int, int],
        known: Array | None = None,
        trace: bool = False,
    ) -> Sampled:
        """Samples of `shape` (B, L).

        key: one key, or one per row (B,), in which case a row does not depend on the other rows.
        known: int (B, L), a token where it is known and -1 where it is to be sampled; known tokens
        never change. trace: keep the frames, for one more call of the network a step.
        """

    def sample(
        self,
        key: Array,
        process: Objective,
        model: Model,
        shape: tuple[int, int],
        known: Array | None = None,
        **options: Any,
    ) -> Array:
        """x0 of `run`, int (B, L); options are those of `run`."""
        return self.run(key, process, model, shape, known, **options).x0

    @property
    def layers(self) -> tuple["Sampler", ...]:
        """This sampler and those inside of it, from the outermost in."""
        return (self,) if self.inner is None else (self, *self.inner.layers)

    @property
    def decodes(self) -> bool:
        """Whether it calls the network through stored keys and values (`Network.decode`)."""
        return False

    @property
    def draws_jointly(self) -> bool:
        """Whether it draws all tokens of a step together, where a text has to match a pattern
        (`samplers.automaton`)."""
        return False

    def check(self, experiment: Any, path: str) -> None:  # noqa: B027, most have nothing to object
        """Nothing; ValueError where the sampler does not go with other parts of the experiment, in which
        it is the setting `path`."""


def masks(process: Objective) -> bool:
    """Whether the process masks all tokens alike, by one schedule in continuous time."""
    return isinstance(process, Process) and process.masked_schedule is not None


class State(NamedTuple):
    """Between two steps: z, a state of the process's space, at times t (B, 1); x0, the last guess (B,
    L); calls (B,) so far; memory of the sampler, any arrays; with a row per row where rows may end
    early."""

    z: Array
    t: Array
    x0: Array
    calls: Array
    memory: Any = ()


class Stepwise(Sampler):
    """The loop. A subclass is a dataclass with the setting `logits_processor`. It defines
    `compatibility`, `calls` and `advance`; `max_steps` where the loop is shorter than `calls`; `ended`
    where rows may finish early."""

    keeps_frames: ClassVar[bool] = True

    def max_steps(self, process: Process, length: int) -> int:
        """How often the loop calls `advance`, at most."""
        return self.calls(process, length)

    def begin(self, key: Array, state: State, process: Process, known: Array | None) -> State:
        """The state before the first step, from one with z and t = 1."""
        return state

    @abstractmethod
    def advance(
        self,
        key: Array,
        number: Array,
        state: State,
        process: Process,
        model: Model,
        known: Array | None,
    ) -> State:
        """The state after step `number`, counted from 0: z, in which the loop puts known tokens back; t,
        the time that it is at now; x0, int (B, L), a guess of the tokens 0..V-1; calls, one more;
        memory.

        key: one, or one per row. model: as `modified` gives it.
        """

    def ended(self, state: State, process: Process) -> Array | None:
        """(B,): rows that are finished; None where all take the same number of steps."""
        return None

    def modified(self, process: Process, model: Model) -> Model:
        """The model as `advance` gets it: with the logits processor applied, where the sampler does not
        apply it itself."""
        return processed(self.logits_processor, process, model)

    def run(
        self,
        key: Array,
        process: Process,
        model: Model,
        shape: tuple[int, int],
        known: Array | None = None,
        trace: bool = False,
        start: Array | None = None,
    ) -> Sampled:
        """Samples of `shape` (B, L), as `Sampler.run` gives them; start is z at the first time, in
        place of a draw of the prior.

        Known tokens stand in the state from the start, clean. For an absorbing process this is its own
        conditional distribution, because a revealed token is never masked again; likewise on the
        simplex, where a vertex is a certain token at any t (for a network, in so far as it knows
        vertices: at time t it was trained on noisy neighbours). For other kernels it is an
        approximation, for the same reason; `samplers.twisted_smc` is exact in the limit of many
        particles.
        """

        key_prior, key_steps = split(key)
        model = self.modified(process, model)
        rows = shape[0]
        z = process.prior(key_prior, shape) if start is None else start
        z = process.space.clamp(self.logits_processor.without_banned(z, process), known)
        tokens = process.space.tokens(z)
        state = State(
            z,
            jnp.ones((rows, 1)),
            jnp.where(tokens < process.num_tokens, tokens, 0),  # of rows with nothing left to do
            jnp.zeros(rows, jnp.int32),
        )
        most = self.max_steps(process, shape[1])
        state = self.begin(fold_in(key_steps, most), state, process, known)

        def step(number, state):
            key = fold_in(key_steps, number)
            new = self.advance(key, number, state, process, model, known)
            x0 = new.x0 if known is None else jnp.where(known >= 0, known, new.x0)
            # At t = 0 the state is the sample, also where a schedule leaves noise.
            clean = jnp.where(new.t > 0, -1 if known is None else known, x0)
            z = process.space.clamp(new.z, clean)
            new = new._replace(z=z, x0=x0.astype(jnp.int32))
            ended = self.ended(state, process)
            if ended is None:
                return new
            return jax.tree.map(lambda a, b: jnp.where(_like(ended, a), a, b), state, new)

        def traced(state, number):
            new = step(number, state)
            return new, _frame(new, state, process, model)

        frames = None
        if trace:
            first = _frame(state, None, process, model)
            state, rest = jax.lax.scan(traced, state, jnp.arange(most))
            frames = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
        elif self.ended(state, process) is None:
            state, _ = jax.lax.scan(lambda s, n: (step(n, s), None), state, jnp.arange(most))
        else:

            def unfinished(carry):
                ended = self.ended(carry[1], process)
                assert ended is not None  # as in the first state
                return (carry[0] < most) & ~ended.all()

            _, state = jax.lax.while_loop(
                unfinished, lambda carry: (carry[0] + 1, step(*carry)), (0, state)
            )
        return Sampled(padded(state.x0, self.stop, known), state.calls, frames)


def _like(rows: Array, array: Array) -> Array:
    return rows.reshape((-1,) + (1,) * (array.ndim - 1))


def _frame(state: State, before: State | None, process, model) -> Frames:
    """The state as a frame, with what the model said in the state before."""
    tokens = process.space.tokens(state.z)
    if before is None:
        return Frames(state.t[:, 0], tokens, jnp.full(tokens.shape, jnp.nan))
    log_p0 = process.predict(model(before.z, before.t), before.z, before.t)
    masked = tokens >= log_p0.shape[-1]
    chosen = jnp.exp(gather_last(log_p0, jnp.where(masked, 0, tokens)))
    return Frames(state.t[:, 0], tokens, jnp.where(masked, jnp.nan, chosen))


@dataclass(frozen=True)
class TimedSampler(Sampler):
    """A sampler that calls the network at times on a grid.

    steps: how many calls. grid: where the times are. "uniform": evenly. "cosine": MD4's (arXiv
    2406.04329), small steps at first, when little is known, and larger ones as context grows. "fitted":
    equal shares of the loss in each step. information: of "fitted", the loss at the middles of equal
    intervals of t from 0 to 1 (`python -m experiments.fit_grid` measures it). logits_processor: changes
    the model's distribution of x0 before the sampler sees it.
    """

    steps: int = 64
    grid: Literal["uniform", "cosine", "fitted"] = "uniform"
    information: tuple[float, ...] = ()
    logits_processor: LogitsProcessor = LogitsProcessor()
    grids: ClassVar[tuple[str, ...]] = ("uniform", "cosine", "fitted")

    def __post_init__(self):
        name = type(self).__name__
        if self.steps < 1:
            raise ValueError(f"{name}.steps = {self.steps} must be at least 1")
        if self.grid not in self.grids:
            allowed = " or ".join(map(repr, self.grids))
            raise ValueError(f"{name}.grid = {self.grid!r} is not {allowed}")
        if self.grid == "fitted" and not (
            self.information and min(self.information) >= 0 < sum(self.information)
        ):
            raise ValueError(
                f"{name}.grid = 'fitted' needs {name}.information, losses at equal intervals of time "
                "that are not all 0; experiments.fit_grid measures them"
            )

    def calls(self, process, length):
        return self.steps

    def max_steps(self, process: Process, length: int) -> int:
        """`steps`, whatever a step calls."""
        return self.steps

    def times(self) -> Array:
        """(steps + 1,) times, falling from 1 to 0."""
        u = jnp.arange(self.steps, -1, -1) / self.steps
        if self.grid == "cosine":
            return jnp.sin(jnp.pi / 2 * u)
        if self.grid == "fitted":
            cumulative = jnp.cumsum(jnp.asarray((0.0, *self.information)))
            edges = jnp.linspace(0, 1, len(self.information) + 1)
            inner = jnp.interp(u, cumulative / cumulative[-1], edges)
            return inner.at[0].set(1.0).at[-1].set(0.0)  # also where nothing is told at an end
        return u

    def check(self, experiment, path):
        most = experiment.process.traits.max_steps
        if most is not None and self.steps > most:
            raise ValueError(
                f"{path}.steps = {self.steps}: "
                f"{type(experiment.process).__name__} is sampled in at most {most}"
            )

    def ends(self, number: Array, state: State) -> tuple[Array, Array]:
        """(t, s), each (B, 1), of step `number`."""
        times, shape = self.times(), state.t.shape
        return jnp.broadcast_to(times[number], shape), jnp.broadcast_to(times[number + 1], shape)

    def begin(self, key: Array, state: State, process: Process, known: Array | None) -> State:
        """The state at the first time of the grid."""
        return state._replace(t=jnp.broadcast_to(self.times()[0], state.t.shape))


@dataclass(frozen=True)
class GridSampler(TimedSampler, Stepwise):
    """A sampler whose step from t to s needs nothing but z, and one call of the network."""

    @abstractmethod
    def step(
        self, key: Array, process: Process, model: Model, z: Array, t: Array, s: Array
    ) -> tuple[Array, Array]:
        """(z_s, x0): the state at s <= t and a guess of the text, int (B, L), from the state z at t.

        t and s are (B, 1). model(z, t) -> out (B, L, V) is any function, also one of another framework
        where nothing is compiled; in `self.modified(process, model)` the logits processor acts.
        `sample` gives the last x0 of this loop:

            key_prior, key_steps = jax.random.split(key)
            z, times = process.prior(key_prior, (B, L)), self.times()
            for n in range(self.steps):
                t, s = (jnp.full((B, 1), times[k]) for k in (n, n + 1))
                z, x0 = self.step(jax.random.fold_in(key_steps, n), process, model, z, t, s)

        With known tokens z is `process.space.clamp(z, known)` before each step.
        """

    def advance(self, key, number, state, process, model, known):
        t, s = self.ends(number, state)
        z, x0 = self.step(key, process, model, state.z, t, s)
        return State(z, s, x0, state.calls + 1, state.memory)
