"""The training state and the compiled step that advances it.

Everything random in a step is a function of (run seed, step, number of the example in the global
batch): neither the device count nor the number of microbatches changes what is computed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from diffusion.conditional import clamped
from diffusion.process import Objective
from experiments.config import Experiment
from experiments.training.annealing import opening
from experiments.training.recovery import checked_step, run_key, zero_health
from models.backbone import Network
from models.layers import use_mesh


def make_optimizer(experiment: Experiment, params: dict) -> optax.GradientTransformation:
    """The experiment's optimiser of `params`; nothing for those that are not trained."""
    update = experiment.optimizer.build(params, experiment.roles())
    trained, frozen = experiment.process.traits.trained, experiment.model.frozen
    if trained is None and not frozen:
        return update

    def learns(path, _):
        name = path[0].key
        return name not in frozen and (trained is None or name in trained)

    return optax.partition(
        {True: update, False: optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(learns, params),
    )


def init_state(
    experiment: Experiment, begin: dict | None = None, tokens: jax.Array | None = None
) -> dict:
    """{params, ema, optimizer, step, totals, health}, and times where their weight learns: all that
    training carries from step to step. It begins with the parameters of `begin`, which may lack some,
    and others drawn by the run's seed; tokens: rows (N, L) of the training text, for a model that
    measures something of it (`Backbone.fitted`)."""
    params = experiment.init_params(jax.random.key(experiment.train.seed))
    params = jax.tree.map(jnp.copy, _merged(params, begin or {}))
    if tokens is not None:
        params = experiment.model.fitted(params, tokens)
    learned = experiment.train.time_weight.init()
    return {
        "params": params,
        "ema": jax.tree.map(lambda p: jnp.array(p, jnp.float32), params),
        "optimizer": make_optimizer(experiment, params).init(params),
        "step": jnp.zeros((), jnp.int32),
        "totals": zero_totals(),
        "health": zero_health(),
    } | ({"times": learned} if learned else {})


def _merged(params: dict, begin: dict) -> dict:
    return {
        name: _merged(part, begin.get(name, {}))
        if isinstance(part, dict)
        else begin.get(name, part)
        for name, part in params.items()
    }


def zero_totals() -> dict:
    """Sums over the steps of a logging interval."""
    return {name: jnp.zeros(()) for name in ("steps", "loss", "grad_norm")}


def only_counted(nats: jax.Array, conditioning: dict) -> jax.Array:
    """nats (..., L), 0 where the segment is that of padding, 0, and where the token is known."""
    if "segments" in conditioning:
        nats = jnp.where(conditioning["segments"] > 0, nats, 0)
    return jnp.where(conditioning["known"], 0, nats) if "known" in conditioning else nats


def of_network(conditioning: dict) -> dict:
    """What the network is given of the rows: all but which tokens are known, which stand clean in what
    it reads."""
    return {name: array for name, array in conditioning.items() if name != "known"}


def training_loss(
    experiment: Experiment,
    process: Objective,
    network: Network,
    key: jax.Array,
    tokens: jax.Array,
    u: jax.Array,
    conditioning: dict,
    frozen: dict | None = None,
) -> jax.Array:
    """(B, L): what is minimised, 0 where there is padding and where tokens are known: the loss of the
    bound process, with the loss of tokens and the weights of `Train`. key, tokens, u: as of
    `Objective.loss`; conditioning, frozen: as of the step."""
    train = experiment.train

    def of(network):
        if "known" in conditioning:
            network = clamped(process, network, tokens, conditioning["known"])
        costing = train.token_loss.applied(network)
        return train.time_weight.loss(process, key, costing, tokens, u)

    loss, reference = of(network), None
    if train.token_weight.needs_reference:
        reference = jax.lax.stop_gradient(
            of(experiment.reference(frozen, **of_network(conditioning)))
        )
    nats = only_counted(jax.lax.stop_gradient(loss), conditioning)
    weight = train.token_weight(tokens, nats, reference)
    return only_counted(weight * loss, conditioning)


def make_train_step(
    experiment: Experiment, mesh: jax.sharding.Mesh | None = None
) -> Callable[..., tuple[dict, jax.Array]]:
    """step(state, tokens (A, M, L), conditioning, frozen) -> (state, loss), A microbatches of M rows.

    conditioning: what is given of the rows, {"label": (A, M)}, {"segments": (A, M, L)}, {"known": bool
    (A, M, L)} or {}, as `experiments.data.pipeline` has it; the loss is the mean over tokens that are
    neither padding nor known.
    frozen: parameters of the teacher or reference, or None. mesh: the devices that the state is spread
    over.
    """
    model, train = experiment.model, experiment.train
    abstract = jax.eval_shape(lambda: experiment.init_params(jax.random.key(0)))
    optimizer = make_optimizer(experiment, abstract)

    def microbatch_loss(
        params, key, total, tokens, rows, conditioning, offset, frozen, opened, learned, step
    ):
        keys = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(key, row)))(rows)
        u = ((rows + offset) / train.batch_size)[:, None]  # one stratum an example
        if "label" in conditioning:
            hidden = jax.vmap(
                lambda k: jax.random.bernoulli(jax.random.fold_in(k, 1), train.label_dropout)
            )
            nobody = model.num_labels
            assert nobody is not None  # filled in with the labels of the data
            label = jnp.where(hidden(keys[:, 1]), nobody, conditioning["label"])
            conditioning = conditioning | {"label": label}
        given = of_network(conditioning) | opened
        network = experiment.network(params, dropout_keys=keys[:, 1], **given)
        process = experiment.bind(params, frozen).at_step(step)

        def nats_at(u):
            return training_loss(
                experiment, process, network, keys[:, 0], tokens, u, conditioning, frozen
            )

        if not learned:
            return nats_at(u).sum() / total, {}
        u, scale = train.time_weight.draw(learned, u)
        nats = nats_at(u)
        return (scale * nats).sum() / total, train.time_weight.observe(u, nats)

    value_and_grad = jax.value_and_grad(microbatch_loss, has_aux=True)

    @use_mesh(mesh)
    def train_step(state, tokens, conditioning=None, frozen=None):
        conditioning = conditioning or {}
        total = float(train.batch_size * tokens.shape[2])  # as an integer it may exceed 32 bits
        if "segments" in conditioning or "known" in conditioning:
            counts = only_counted(jnp.ones(tokens.shape, jnp.int32), conditioning)
            total = jnp.maximum(counts.sum(), 1)
        key_offset, key = jax.random.split(
            jax.random.fold_in(run_key(train.seed, state["health"]["retry"]), state["step"])
        )
        offset = jax.random.uniform(key_offset, minval=1e-6, maxval=1 - 1e-6)
        rows = jnp.arange(train.batch_size).reshape(tokens.shape[:2])
        key_opened = jax.random.fold_in(key, train.batch_size)  # no row's
        opened = opening(key_opened, tokens.shape[2], state["step"], train.attention_annealing)

        learned = state.get("times", {})

        def of_one(microbatch):
            return value_and_grad(
                state["params"],
                key,
                total,
                *microbatch,
                offset,
                frozen,
                opened,
                learned,
                state["step"],
            )

        def accumulate(carry, microbatch):
            return jax.tree.map(jnp.add, carry, of_one(microbatch)), None

        microbatches = (tokens, rows, conditioning)
        first = jax.tree.map(lambda x: x[0], microbatches)
        if tokens.shape[0] == 1:
            (loss, observed), grads = of_one(first)
        else:
            zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_one, first))
            ((loss, observed), grads), _ = jax.lax.scan(accumulate, zero, microbatches)
        grad_norm = optax.global_norm(grads)
        keep, health = checked_step(train, state, loss, grad_norm)
        updates, optimizer_state = optimizer.update(grads, state["optimizer"], state["params"])
        params = keep(state["params"], optax.apply_updates(state["params"], updates))
        step = state["step"] + 1
        # A young average follows the parameters more closely, as in score_sde.
        decay = jnp.minimum(train.ema_decay, (1 + step) / (10 + step))
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state["ema"], params)
        measured = {"steps": 1.0, "loss": loss, "grad_norm": grad_norm}
        totals = jax.tree.map(jnp.add, state["totals"], measured)
        new_state = {
            "params": params,
            "ema": keep(state["ema"], ema),
            "optimizer": keep(state["optimizer"], optimizer_state),
            "step": step,
            "totals": keep(state["totals"], totals),
            "health": health,
        }
        if learned:
            new_state["times"] = keep(learned, train.time_weight.learn(learned, observed))
        return new_state, loss

    return train_step
