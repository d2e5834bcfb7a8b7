"""How texts go on, by the run's sampler: many contexts at once, and so many tokens after each.

The context is known, and the tokens after it are drawn. Where the process goes from left to right, what
is beyond them is drawn too, and dropped. Where every position sees every other, a text ends with them:
the network sees nothing beyond, so that its length is given.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from experiments.data.padding import padded_batches
from experiments.devices.sharding import batch_shards, global_batch
from experiments.run import Run
from experiments.sampling.samples import make_sample


def continuations(
    run: Run,
    contexts: Sequence[np.ndarray],
    counts: Sequence[int],
    numbers: Sequence[int],
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """The tokens (n,) int32 after each context (m,), as many as its count; m + n is at most the run's
    length. numbers: what decides, with the seed, the randomness of each.

    progress(contexts done, all) is called after each batch.
    """
    experiment, shards = run.experiment, batch_shards(run.mesh)
    size = min(batch_size or experiment.evaluation.batch_size, len(contexts))
    in_order = experiment.process.traits.attention_block is not None
    rows = [
        np.concatenate([context, np.full(count, -1)])
        for context, count in zip(contexts, counts, strict=True)
    ]
    batches = padded_batches(
        rows, experiment.data.length, -(-size // shards) * shards, experiment.model.decodes
    )
    sample, result, done = make_sample(experiment, run.mesh), {}, 0
    for of_batch, known, segments in batches:
        drawn = np.resize([numbers[n] for n in of_batch], len(known)).astype(np.uint32)
        given = {} if in_order or not experiment.model.decodes else {"segments": segments}
        known = np.where(segments > 0, known, -1) if in_order else known
        arrays = jax.tree.map(lambda a: global_batch(run.mesh, a, axis=0), (drawn, known, given))
        tokens = np.asarray(sample(run.params, seed, *arrays[:2], None, arrays[2])[0].x0)
        for row, n in zip(tokens, of_batch, strict=False):
            result[int(n)] = row[len(contexts[n]) : len(rows[n])]
        done += len(of_batch)
        if progress:
            progress(done, len(contexts))
    return [result[n] for n in range(len(contexts))]
