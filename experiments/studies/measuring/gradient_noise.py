"""How noisy the gradient of a batch is, for different times of training."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from diffusion.block import BlockDiffusion
from experiments.config import Experiment
from experiments.data.pipeline import training_batches
from experiments.data.text import prepare
from experiments.errors import UserError
from experiments.run import Run


def measure(
    run: Run,
    intervals: Sequence[tuple[float, float]],
    batches: int,
    seed: int,
    log: Callable[[str], None],
) -> list[dict]:
    """For each interval {"clip", "noise", "loss"}: the variance of a batch's gradient over the squared
    length of the mean gradient, both estimated without bias over the same batches; inf where no mean
    is seen above the noise."""
    experiment = run.experiment
    if not isinstance(experiment.process, BlockDiffusion):
        raise UserError(
            f"the run holds process {type(experiment.process).__name__}; only BlockDiffusion has a clip"
        )
    length, rows = experiment.data.length, experiment.train.batch_size
    corpus = prepare(experiment.data)
    labels = corpus.split_labels("train")
    stream = training_batches(corpus.split("train", length), length, rows, seed, labels=labels)
    texts = jax.tree.map(lambda *x: jnp.stack(x), *[next(stream) for _ in range(batches)])
    noise_of, results = _compiled(experiment, seed), []
    for clip in intervals:
        noise, loss = noise_of(run.params, texts, *clip)
        results.append({"clip": clip, "noise": float(noise), "loss": float(loss)})
        log(f"times ({clip[0]}, {clip[1]}): noise {noise:.2f}, loss {loss:.4f} nats/token")
    return results


def _compiled(experiment: Experiment, seed: int):
    """noise(params, (texts (N, B, L), {} or {"label": (N, B)}), low, high) -> (noise, loss) for times of
    that interval."""

    def loss(params, key, text, low, high):
        x0, conditioning = text
        rows = x0.shape[0]
        keys = jax.random.split(key, rows + 1)
        offset = jax.random.uniform(keys[rows], minval=1e-6, maxval=1 - 1e-6)
        u = ((jnp.arange(rows) + offset) / rows)[:, None]
        process, network = experiment.bind(params), experiment.network(params, **conditioning)
        assert isinstance(process, BlockDiffusion)  # `gradient_noise`
        return process.loss_within(keys[:rows], network, x0, u, low, high).mean()

    @jax.jit
    def noise(params, texts, low, high):
        def one(carry, batch):
            value, grad = jax.value_and_grad(loss)(params, *batch, low, high)
            total, squares, losses = carry
            length = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad))
            return (jax.tree.map(jnp.add, total, grad), squares + length, losses + value), None

        zero = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), jnp.zeros(()))
        keys = jax.random.split(jax.random.key(seed), len(texts[0]))
        (total, squares, losses), _ = jax.lax.scan(one, zero, (keys, texts))
        n = len(keys)
        mean = sum(jnp.sum((leaf / n) ** 2) for leaf in jax.tree.leaves(total))
        variance = (squares / n - mean) * n / (n - 1)
        length = mean - variance / n
        return jnp.where(length > 0, variance / length, jnp.inf), losses / n

    return noise
