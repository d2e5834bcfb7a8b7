"""How noisy the gradient of a batch is, for different settings of the training loss."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from experiments.config import Experiment
from experiments.data.pipeline import training_batches
from experiments.data.text import prepare
from experiments.errors import UserError
from experiments.overrides import override, resolve
from experiments.run import Run
from experiments.training.teacher import load_teacher
from experiments.training.train_step import of_network, only_counted, training_loss


def those_that_fit(experiment: Experiment, settings: Sequence[str]) -> list[str]:
    """Those of the settings that go with the process of the experiment, and change it."""
    fitting = []
    for words in settings:
        with contextlib.suppress(UserError):
            if with_settings(experiment, words) != experiment:
                fitting.append(words)
    return fitting


def measure(
    run: Run,
    settings: Sequence[str],
    batches: int,
    seed: int,
    log: Callable[[str], None],
) -> list[dict]:
    """For each of the settings, overrides with blanks between them, {"setting", "noise", "cost",
    "noise_at_equal_cost", "loss"}.

    noise: the variance of a batch's gradient over the squared length of the mean gradient, both
    estimated without bias over the same batches; inf where no mean is seen above the noise. cost:
    floating-point operations of a batch, relative to those of the first of the settings.
    """
    changed = [with_settings(run.experiment, words) for words in settings]
    corpus, length = prepare(run.experiment.data), run.experiment.data.length
    rows, labels = run.experiment.train.batch_size, corpus.split_labels("train")
    tokens = corpus.split("train", length)
    stream = training_batches(tokens, length, rows, seed, labels=labels)
    texts = jax.tree.map(lambda *x: jnp.stack(x), *[next(stream) for _ in range(batches)])
    results, first = [], None
    for words, experiment in zip(settings, changed, strict=True):
        experiment = resolve(
            experiment, corpus.tokenizer, corpus.training_tokens, corpus.label_names
        )
        experiment, frozen = load_teacher(experiment)
        learn, noise_of = _programs(experiment, seed)
        learned = learn(run.params, texts, frozen)
        program = noise_of.lower(run.params, texts, frozen, learned).compile()
        noise, loss = map(float, program(run.params, texts, frozen, learned))
        flops = _flops(program)
        first = first or flops
        cost = flops / first if first else 1.0
        results.append(
            {
                "setting": words,
                "noise": noise,
                "cost": cost,
                "noise_at_equal_cost": noise * cost,
                "loss": loss,
            }
        )
        log(
            f"{words or 'as the run is set'}: noise {noise:.2f}, at equal cost {noise * cost:.2f}, "
            f"loss {loss:.4f} nats/token"
        )
    return results


def with_settings(experiment: Experiment, words: str) -> Experiment:
    """The experiment with overrides that have blanks between them; without its teacher where none is
    needed any more. UserError for settings of other parts."""
    overrides = words.split()
    other = [w for w in overrides if not w.startswith(("train.", "process.", "teacher"))]
    if other:
        raise UserError(
            f"{other[0]}: only settings of train, process and teacher keep the run's network and text"
        )
    changed = override(experiment, overrides)
    taught = changed.process.traits.second_network == "teacher"
    if taught or changed.train.token_weight.needs_reference:
        return changed
    return replace(changed, teacher=None)  # of the run's own weight of tokens


def _flops(program) -> float:
    """What the compiler counts, a loop over batches once; 0 where it does not count."""
    analysis = program.cost_analysis() or {}
    return float(analysis.get("flops", 0.0))


def _programs(experiment: Experiment, seed: int):
    """learn(params, (texts (N, B, L), {} or {"label": (N, B)}), frozen) -> what the weight of times
    learns of them; noise(params, texts, frozen, learned) -> (noise, loss); both jitted."""

    weight = experiment.train.time_weight

    def loss(params, key, text, frozen, learned):
        x0, conditioning = text
        rows = x0.shape[0]
        keys = jax.random.split(key, rows + 1)
        offset = jax.random.uniform(keys[rows], minval=1e-6, maxval=1 - 1e-6)
        u = ((jnp.arange(rows) + offset) / rows)[:, None]
        network = experiment.network(params, **of_network(conditioning))
        process = experiment.bind(params, frozen)
        u, scale = weight.draw(learned, u) if learned else (u, 1)
        nats = training_loss(experiment, process, network, keys[:rows], x0, u, conditioning, frozen)
        observed = weight.observe(u, nats) if learned else {}
        real = only_counted(jnp.ones(x0.shape), conditioning)
        return (scale * nats).sum() / jnp.maximum(real.sum(), 1), observed

    def keys_of(texts):
        return jax.random.split(jax.random.key(seed), len(texts[0]))

    @jax.jit
    def learn(params, texts, frozen):
        keys = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys_of(texts))

        def one(learned, batch):
            key, text = batch
            return weight.learn(learned, loss(params, key, text, frozen, learned)[1]), None

        learned = weight.init()
        return jax.lax.scan(one, learned, (keys, texts))[0] if learned else learned

    @jax.jit
    def noise(params, texts, frozen, learned):
        keys = keys_of(texts)

        def one(carry, batch):
            of_batch = jax.value_and_grad(loss, has_aux=True)
            (value, _), grad = of_batch(params, *batch, frozen, learned)
            total, squares, losses = carry
            length = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad))
            return (jax.tree.map(jnp.add, total, grad), squares + length, losses + value), None

        zero = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), jnp.zeros(()))
        (total, squares, losses), _ = jax.lax.scan(one, zero, (keys, texts))
        n = len(keys)
        mean = sum(jnp.sum((leaf / n) ** 2) for leaf in jax.tree.leaves(total))
        variance = (squares / n - mean) * n / (n - 1)
        length = mean - variance / n
        return jnp.where(length > 0, variance / length, jnp.inf), losses / n

    return learn, noise
