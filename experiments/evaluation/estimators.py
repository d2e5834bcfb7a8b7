"""The estimators of a bound by name (`experiments.config.Evaluation`), compiled."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.any_order import AnyOrder, RandomOrders
from diffusion.conditional import Conditional
from diffusion.process import Likelihood, Objective, Process, TimeIntegral, mask_schedule
from experiments.config import Experiment
from experiments.devices.sharding import replicated
from experiments.errors import UserError
from experiments.evaluation.breakdown import Nats, in_parts
from experiments.training.train_step import of_network, only_counted
from models.layers import use_mesh


def make_bound(
    experiment: Experiment,
    num_times: int,
    seed: int,
    mesh: jax.sharding.Mesh,
    quantity: Literal["bound", "loss"] = "bound",
) -> jax.stages.Wrapped:
    """bound(params, x0 (B, L), first, frozen, conditioning) -> `Nats`, of positions without padding;
    jitted. With quantity "loss" the loss is the only term. conditioning: what is given of the rows, as
    `experiments.data.pipeline` has it; its "known", bool (B, L), are tokens that are given and not
    counted (`diffusion.conditional`).

    Sequence number first + row, or first (B,) of each, and time sample k decide all randomness.
    """

    chosen = estimator(experiment) if quantity == "bound" else "low_discrepancy"
    length = experiment.data.length

    @use_mesh(mesh)
    def bound(params, x0, first, frozen=None, conditioning=None):
        process, conditioning = experiment.bind(params, frozen), conditioning or {}
        known = conditioning.get("known")
        bounded = _estimated(experiment, chosen, process, known) if quantity == "bound" else None
        losing = process if known is None else Conditional(process, known)
        numbers = first + jnp.arange(x0.shape[0]) if jnp.ndim(first) == 0 else first
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
        places, weights = _places(chosen, num_times, keys, seed, numbers)
        network = experiment.network(params, **of_network(conditioning))

        def at(k):
            keys_k = jax.vmap(lambda key: jax.random.fold_in(key, k))(keys)
            u = places[k][:, None]
            if bounded is None:
                terms = {"loss": losing.loss(keys_k, network, x0, u)}
            else:
                terms = bounded.bound_terms(keys_k, network, x0, u)
            terms = {name: only_counted(term, conditioning) for name, term in terms.items()}
            return jax.tree.map(lambda a: weights[k] * a, (
                {name: term.sum(1) for name, term in terms.items()},
                {name: in_parts(term, length) for name, term in terms.items()},
            ))  # fmt: skip

        terms, parts = jax.lax.map(at, jnp.arange(num_times))
        return Nats(
            {name: term.T for name, term in terms.items()},
            {name: part.mean(0) for name, part in parts.items()},
            _times(process, chosen, quantity, places.T),
        )

    return jax.jit(bound, out_shardings=replicated(mesh))


def estimator(experiment: Experiment) -> str:
    """The name of the evaluation's estimator, "auto" made out."""
    process, asked = experiment.process, experiment.evaluation.estimator
    if asked != "auto":
        return asked
    if not process.traits.any_order:
        return "low_discrepancy"
    schedule = mask_schedule(process)
    ends = schedule.log1m_alpha(jnp.ones(())), schedule.log_alpha(jnp.zeros(()))
    boundless = all(abs(end) < 1e-6 for end in ends)  # of boundary terms "any_order" has none
    timed, group = experiment.model.time_conditioning, experiment.evaluation.group
    return "any_order" if boundless and not timed and group == 1 else "low_discrepancy"


_GOLDEN = 2654435769  # the golden ratio, less 1, of 2^32


def _estimated(
    experiment: Experiment, chosen: str, process: Objective, known: jax.Array | None = None
) -> Likelihood | AnyOrder | RandomOrders | Conditional:
    """The objective whose `bound_terms` an estimator takes."""
    assert isinstance(process, Likelihood)  # `check_bound`
    evaluation = experiment.evaluation
    if chosen == "any_order":
        return AnyOrder(process, evaluation.group, known)
    if chosen == "orders":
        return RandomOrders(process, evaluation.group, evaluation.orders, known)
    return process if known is None else Conditional(process, known)


def _places(chosen: str, count: int, keys, seed: int, numbers) -> tuple[jax.Array, jax.Array]:
    """u of each of `count` samples of each sequence, (K, B), in (0, 1), and the weight of each, (K,)."""
    if chosen == "quadrature":
        nodes, weights = np.polynomial.legendre.leggauss(count)
        places = jnp.asarray((nodes + 1) / 2, jnp.float32)
        return jnp.broadcast_to(places[:, None], (count, len(numbers))), jnp.asarray(
            weights / 2 * count, jnp.float32
        )
    if chosen in ("low_discrepancy", "any_order"):
        start = jax.random.uniform(jax.random.key(seed))
        turned = numbers.astype(jnp.uint32) * jnp.uint32(_GOLDEN)  # modulo 2^32, exactly
        offset = jnp.clip((start + turned * 2.0**-32) % 1, 1e-6, 1 - 1e-6)
    else:
        offset = jax.vmap(lambda k: jax.random.uniform(k, minval=1e-6, maxval=1 - 1e-6))(keys)
    return (jnp.arange(count)[:, None] + offset[None]) / count, jnp.ones(count)


def _times(process: Objective, chosen: str, quantity: str, places: jax.Array) -> jax.Array | None:
    """The times (B, K) of u (B, K): of tokens that are revealed one by one the share that is masked;
    None where u is no time of all positions, as in blocks, each of which has its own."""
    if chosen == "any_order":
        return 1 - places
    of_times = Process if quantity == "loss" else TimeIntegral
    return places if chosen != "orders" and isinstance(process, of_times) else None


def is_exact(process: Objective) -> bool:
    """Whether the process has its likelihood itself, in one call of the network."""
    return isinstance(process, Likelihood) and process.likelihood == "exact"


def times_per_sequence(experiment: Experiment) -> int:
    """How many samples a sequence are taken: as the evaluation says, or 1 of what depends on no time."""
    alone = is_exact(experiment.process) or estimator(experiment) == "orders"
    return 1 if alone else experiment.evaluation.num_times


def estimator_of(experiment: Experiment) -> str:
    """The estimator in words, for a record."""
    evaluation, times = experiment.evaluation, times_per_sequence(experiment)
    at_a_time = f"{evaluation.group} token{'s' if evaluation.group > 1 else ''} at a time"
    if is_exact(experiment.process):
        return "exact, one pass"
    return {
        "times": f"mean over {times} stratified times per sequence",
        "low_discrepancy": f"mean over {times} stratified times per sequence, of low discrepancy over "
        "sequences",
        "quadrature": f"Gauss-Legendre quadrature at {times} times",
        "any_order": f"random order, {at_a_time}: mean over {times} stratified numbers of known tokens "
        "per sequence",
        "orders": f"{evaluation.orders} random orders per sequence, {at_a_time}, logarithm outside of "
        "their mean",
    }[estimator(experiment)]


def kind_of(experiment: Experiment) -> str:
    """What the number is: that of the process, but a quadrature of a bound is an estimate of it."""
    process = experiment.process
    assert isinstance(process, Likelihood)  # `check_bound`
    kind = process.likelihood
    quadrature = estimator(experiment) == "quadrature"
    return "estimate" if kind == "bound" and quadrature else kind


def check_bound(experiment: Experiment) -> None:
    """UserError for a process that has no likelihood bound, or none by the estimator asked for."""
    process = experiment.process
    if not isinstance(process, Likelihood):
        raise UserError(
            f"{type(process).__name__} has no likelihood bound to evaluate; evaluate its samples: ddlm "
            "sample --out FILE, then ddlm quality --samples FILE"
        )
    try:
        _estimated(experiment, estimator(experiment), process)
    except ValueError as error:
        raise UserError(
            f"evaluation.estimator = {experiment.evaluation.estimator}: {error}"
        ) from error
