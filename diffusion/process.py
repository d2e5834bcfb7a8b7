"""What a diffusion process is: the conventions of the whole project, and the interfaces.

Conventions

- t in [0, 1]: 0 is data, 1 is noise; the reverse step goes from t to s, s < t. A time has rank 2:
  (B, 1), or (B, L) where positions differ.
- V data tokens 0..V-1. Absorbing processes have S = V + 1 states and the mask is id V, the last.
- x0 is data, int (B, L). z is a noisy state of the process's `space`: int (B, L), float (B, L, V) on the
  simplex, or float (B, L, D) in an embedding space (`diffusion.spaces`).
- out = model(z, t): float (B, L, V), never a mask column; column v at position i always speaks of
  x0[:, i] == v. log_p0 is a normalised log-probability of the same shape.
- Losses and bounds are nats per position, (B, L). Only `experiments/evaluation/units.py` has others. The
  bound is what the literature calls the NELBO, the negative evidence lower bound.
- A setting that depends on the training data and is None is filled in when the data is read, and stored
  with the run: `vocab_size`, `unigram` (counts of each token), `embeddings` (`experiments.overrides`).
- A key is one key, or one key per row of the batch, shape (B,). The trainer, the evaluator and the
  sampler pass one per row, made of the number of the example, so that randomness does not depend on
  how rows are laid out over batches, microbatches and devices.

The interfaces are the abstract classes below. An implementation inherits from those whose methods it
has; what it can do is told by its classes and its `traits` alone:

    Objective         what can be trained
      Likelihood      ... and has a number: exact, a bound, or an estimate
      Process         ... and has noisy states, which samplers turn back into text
        TransitionProcess   gives the probability of a step
          JumpProcess       on discrete states
            RateProcess     with rates in continuous time
            ScoreProcess    whose network is a score
        FlowProcess         can be moved by an ODE
        StateWeighted       is trained with weights of its states
      Sequential      from left to right, one token after another
      Composed        has a base: blocks, residual energies, classifiers of its noise
      Student         learns from the network of a finished run (`diffusion.distillation`)
"""

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Literal, Self

import jax

from diffusion.model import JointModel, LogitsFunction, Model, RowModel, at_positions
from diffusion.numerics import gather_last, log_one_hot
from diffusion.random import categorical
from diffusion.schedules import Schedule
from diffusion.spaces import StateSpace, Tokens

Array = jax.Array
Kind = Literal["exact", "bound", "estimate"]
KnownTokens = Literal["exact", "vertices", "biased"]
MAX_STEPS = 2**22  # of a grid of times k / T: float32 gives back k from them up to here


@dataclass(frozen=True)
class Traits:
    """What the rest of the program has to know of an objective.

    attention_block: how many positions at a time the network's attention goes from left to right; 1 is
    causal, None lets every position see every other. second_network: one that is asked besides the
    model: the "energy" of a residual process, or the "teacher" that an objective learns from. labels:
    whether sequences may, must or cannot have labels. output: what the model says, "tokens" or, of a
    classifier, the "label". max_steps: of a sampler, None for any number. trained: the top-level names
    of the parameters that training changes; None means all. own_parameters: whether `init` makes any.
    whole_rows: whether losses are sums over a row, so that a row has to be one text of full length.
    ahead: how many tokens the network speaks of at each position in training, its own and the next ones.
    any_order: whether the bound is the mean likelihood over orders in which tokens are revealed.
    own_loss: whether training has another loss than the integrand of the bound at `Process.time`, which
    weights of times do not fit, nor do blocks. vector_width: of what the network reads where states are
    vectors (`diffusion.spaces.Vectors`), D or with an estimate beside the state 2 D; else None. inserts:
    whether texts grow by insertion, so that their length is part of what is modelled, and the network
    says besides how many tokens are missing (`models.insertion`).
    """

    attention_block: int | None = None
    second_network: Literal["none", "energy", "teacher"] = "none"
    labels: Literal["optional", "required", "unsupported"] = "optional"
    output: Literal["tokens", "label"] = "tokens"
    max_steps: int | None = None
    trained: tuple[str, ...] | None = None
    own_parameters: bool = False
    whole_rows: bool = False
    ahead: int = 1
    any_order: bool = False
    own_loss: bool = False
    vector_width: int | None = None
    inserts: bool = False


class Objective(ABC):
    """All that the trainer knows: parameters of its own, and a loss."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    vocab_size: int | None
    """V, how many tokens there are; None takes the data's."""
    traits: Traits = Traits()
    monitor: Literal["bound", "loss"] = "loss"
    """What evaluations during training measure."""
    token_logits: bool = False
    """Whether `loss` asks `at_positions` for what each token costs by its logits, and the model nothing
    else: then training can take another loss of them (`experiments.token_losses`)."""

    @property
    def num_tokens(self) -> int:
        """V, the number of data tokens; ValueError where `vocab_size` waits for the data to be read."""
        if self.vocab_size is None:
            raise ValueError(
                f"{type(self).__name__}.vocab_size = None is filled in when the data is read; give a "
                "number to use the process without data"
            )
        return self.vocab_size

    def init(self, key: Array) -> dict:
        """Parameters of the objective itself, trained with the model's; {} where it has none.

        They should be few: every device holds them whole. Weight decay spares them.
        """
        return {}

    def bind(self, params: dict) -> Self:
        """The objective with the parameters that `init` made and training changed."""
        return self

    def wrapped(self, model: Model) -> Model:
        """The network as the loss, the bound and samplers call it: as it is, unless the process gives it
        more to read than the state."""
        return model

    def taught_by(self, teacher: Model) -> Self:
        """The objective with the network of its teacher, where `traits` say that it has one."""
        raise ValueError(f"{type(self).__name__} learns from no teacher")

    def at_step(self, step: Array) -> Self:
        """The objective as `loss` has it after `step` steps of training, an integer; most have the same
        loss all the time. Bounds and samples do not depend on it."""
        return self

    @abstractmethod
    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """(B, L) nats to minimise; u (B, 1) in (0, 1), stratified over the global batch."""

    def check(self, experiment: Any) -> None:  # noqa: B027, most have nothing to object
        """Nothing; ValueError where the objective does not go with other parts of the experiment."""


class Likelihood(Objective):
    """An objective that has a number for -log p(x0), which the evaluator reports."""

    likelihood: Kind
    monitor: Literal["bound", "loss"] = "bound"

    @abstractmethod
    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        """The terms of the bound by name, each (B, L) nats, such as diffusion, prior, reconstruction:
        the mean of their sum over key and u is the bound, and a record lists them."""

    def bound(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        """(B, L) nats, the sum of `bound_terms`: E sum_L bound >= -log p(x0)."""
        first, *others = self.bound_terms(key, model, x0, u).values()
        return sum(others, start=first)


class Process(Objective):
    """All that a sampler knows. Its loss is the mean of `token_loss` over its own times."""

    states: Literal["tokens", "simplex", "vectors"] = "tokens"
    """What the states are, as a network takes them."""
    masked_schedule: Schedule | None = None
    """alpha(t), where every token alike is masked by it in continuous time, as in MDLM; else None."""

    token_logits: bool = True
    posterior_head: bool = False
    """Whether `out` at a masked position is log p(x0 | z_t) up to a constant, as `predict` gives it."""
    known_tokens: KnownTokens = "biased"
    """What a known token means that stands clean in the state: its own conditional distribution,
    since a revealed token never changes; a vertex of the simplex, which is a certain token; or a noisy
    one, which biases what is drawn around it."""

    @property
    @abstractmethod
    def space(self) -> StateSpace:
        """Where the states live."""

    @abstractmethod
    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        """z_1 for a batch of `shape` (B, L)."""

    @abstractmethod
    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        """z_t ~ q(z_t | x0)."""

    @abstractmethod
    def predict(self, out: Array, z: Array, t: Array) -> Array:
        """log p(x0 | z_t), (B, L, V), normalised; -inf is allowed, as where a token is certain."""

    @abstractmethod
    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        """(B, L) nats: the integrand of the bound, or of the loss, at time t."""

    @abstractmethod
    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        """z_s ~ q(z_s | z_t, x0), 0 <= s <= t."""

    @abstractmethod
    def log_likelihood(self, z: Array, t: Array) -> Array:
        """(B, L, V): log q(z_t^i | x0^i = v), up to a constant per position."""

    def counted(self, z: Array) -> Array | None:
        """(B, L): the positions that `token_loss` can be other than 0 at; None for all."""
        return None

    def loss_of(self, model: Model, x0: Array, z: Array, t: Array) -> Array:
        """(B, L) nats: `token_loss` of what the model says of z."""

        def function(out, x0, z, t):
            return self.token_loss(out, x0, z, t)

        return at_positions(model, function, self.counted(z), x0, z, t)

    def time(self, u: Array) -> Array:
        """t (B, 1): the process's own measure on time, a grid for discrete-time processes."""
        return u

    def in_steps(self, num_steps: int | None) -> Self:
        """The same process, its loss that of `num_steps` steps on a grid of times, or of continuous time
        for None. ValueError where it has not both."""
        if num_steps is not None:
            raise ValueError(f"{type(self).__name__} does not go in steps on a grid of times")
        return self

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        """(B, L, V): what the network would have to put out for `predict` to give log_p0."""
        return log_p0

    def draw(
        self,
        key: Array,
        model: Model,
        z: Array,
        t: Array,
        logits_processor: LogitsFunction | None = None,
    ) -> Array:
        """A guess of x0, (B, L), drawn from the model; logits_processor changes log_p0 before."""
        before = self.predict(model(z, t), z, t)
        log_p0 = before if logits_processor is None else logits_processor(before)
        if isinstance(model, JointModel):
            return model.tokens(key, log_p0, before)
        return categorical(key, log_p0)

    def draw_at(self, key: Array, model: Model, z: Array, t: Array, where: Array) -> Array:
        """As `draw`, wanted where `where` (B, L) is true alone; anything elsewhere."""
        return self.draw(key, model, z, t)

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        t = self.time(u)
        return self.loss_of(model, x0, self.corrupt(key, x0, t), t)


def mask_schedule(process: Objective) -> Schedule:
    """alpha(t), by which the process masks all tokens alike; ValueError for one that does not."""
    if not isinstance(process, Process) or process.masked_schedule is None:
        raise ValueError(
            f"{type(process).__name__} is not a masked process in continuous time, such as MDLM"
        )
    return process.masked_schedule


class TransitionProcess(Process):
    """A process that gives the probability of a step: what particles are weighted by."""

    @abstractmethod
    def log_transition(
        self, log_p0: Array, x0: Array, z: Array, z_s: Array, t: Array, s: Array
    ) -> Array:
        """log p(z_s | z_t) - log q(z_s | z_t, x0) of each position, (B, L)."""


class JumpProcess(TransitionProcess):
    """A process on discrete states."""

    @property
    @abstractmethod
    def num_states(self) -> int:
        """S: V, or V + 1 with the mask."""

    @abstractmethod
    def log_posterior(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        """(B, L, S): log p(z_s | z_t), normalised over S: the bridge averaged over log_p0."""

    @abstractmethod
    def log_ratio(self, out: Array, z: Array, t: Array) -> Array:
        """(B, L, S): log p_t(y) / p_t(z) where y is z with one position set to the state."""

    @property
    def space(self) -> Tokens:
        return Tokens(self.num_tokens, self.num_states)

    def log_transition(self, log_p0, x0, z, z_s, t, s):
        log_q = self.log_posterior(log_one_hot(x0, self.num_tokens), z, t, s)
        return gather_last(self.log_posterior(log_p0, z, t, s) - log_q, z_s)


class RateProcess(JumpProcess):
    """A process that jumps in continuous time: what Euler steps and tau-leaping need."""

    @abstractmethod
    def log_reverse_rate(self, out: Array, z: Array, t: Array) -> Array:
        """(B, L, S): log of the rate at which the reverse process jumps to each state, -inf to z
        itself."""


class ScoreProcess(JumpProcess):
    """A process whose network is a score: what Tweedie sampling needs."""

    @abstractmethod
    def log_tweedie(self, out: Array, z: Array, t: Array, s: Array) -> Array:
        """(B, L, S): log of the reverse step that the score implies, up to a constant per position."""


class FlowProcess(Process):
    """A process whose states can also be moved by an ODE."""

    @abstractmethod
    def velocity(self, log_p0: Array, z: Array, t: Array) -> Array:
        """dz / dt, of the shape of z."""

    @abstractmethod
    def flow(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        """z at s > 0, one step of the ODE from z at t with log_p0 held fixed."""


class StateWeighted(Process):
    """A process that is trained with weights of its noisy states, with the loss of `Process`."""

    @abstractmethod
    def training_weight(self, x0: Array, z: Array, t: Array) -> Array:
        """(B, L): by how much the published training multiplies `token_loss` at the state z."""


class Sequential(Objective):
    """A model that goes from left to right, one token after another."""

    @property
    @abstractmethod
    def start(self) -> int:
        """The number of the token that stands before the first."""

    @abstractmethod
    def log_p(self, model: RowModel, x0: Array) -> Array:
        """log p(x0^i | x0^1 .. x0^(i-1)), (B, L) nats."""

    @abstractmethod
    def likeliest(self, model: RowModel, x0: Array) -> Array:
        """int (B, L): the token that is most probable after x0^1 .. x0^(i-1)."""


class Composed(Objective):
    """An objective over another one, its `base`, which it takes the vocabulary from."""

    base: Objective

    @property
    def vocab_size(self) -> int | None:
        """V, of the base."""
        return self.base.vocab_size

    def for_base(self, model: Model, x0: Array, u: Array) -> tuple[Model, Array]:
        """(model, u) as the base takes them: the network for rows of x0, u of each position."""
        return model, u


def denoising_process(process: Objective) -> Process:
    """The process whose `predict` reads the network: the process itself, or that under blocks;
    ValueError for an objective without noisy states."""
    if isinstance(process, Process):
        return process
    if isinstance(process, Composed):
        return denoising_process(process.base)
    raise ValueError(f"{type(process).__name__} has no noisy states to denoise")


def has_noisy_text(objective: Objective) -> bool:
    """Whether text has noisy states in it, which `denoising_process` gives the process of."""
    if isinstance(objective, Composed) and not isinstance(objective, Process):
        return has_noisy_text(objective.base)
    return isinstance(objective, Process)


class TimeIntegral(Process, Likelihood):
    """A process whose bound is the mean of `token_loss` over its own times.

    A subclass with boundary terms (prior, reconstruction) adds them to `bound_terms`.
    """

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        return {"diffusion": self.loss(key, model, x0, u)}


def check_num_steps(process: Process, num_steps: int | None) -> None:
    """Nothing; ValueError for a `num_steps` that makes no grid of times; None is continuous time."""
    if num_steps is not None and not 1 <= num_steps <= MAX_STEPS:
        raise ValueError(
            f"{type(process).__name__}.num_steps = {num_steps} must be at least 1 and at most "
            f"{MAX_STEPS}, beyond which float32 cannot resolve its times"
        )
