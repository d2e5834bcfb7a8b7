"""The toy of arXiv 2402.05841: python -m experiments.studies.simplex_toy [--out DIR]

The data are sequences of four independent tokens out of K, each position with its own distribution
softmax(U[0, 1]^K); every batch is drawn anew. For every K in --sizes, trains one network with linear and
one with Dirichlet flow matching, and samples with 20 ODE steps, evenly spaced in t or in the
concentration from 1 to 8. Reports KL(distribution of the samples || target) in nats, averaged over
positions, next to the value for N exact draws, (K - 1) / 2N. Writes DIR/simplex_toy.json and
DIR/simplex_toy.png.

The paper uses a CNN with 5 layers of 128 channels. Here it is one transformer layer of width 128,
trained for less time, with a decaying learning rate and averaged parameters to compensate. The paper's
code takes the most probable token at the end; here it is drawn from p(x0 | z).
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.dirichlet import DirichletFlow
from diffusion.linear_flow import LinearFlow
from diffusion.random import categorical
from experiments import cli
from experiments.config import Experiment, Train
from experiments.errors import UserError
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from experiments.serialization import encode
from experiments.studies.measuring.fit import fit
from models.backbone import Backbone
from models.transformer import Transformer
from samplers.ode import ODE

LENGTH = 4
METHODS = {
    "linear": (LinearFlow(), ODE(steps=20, grid="uniform")),
    "Dirichlet": (DirichletFlow(scale=2.0), ODE(steps=20)),
}
_ROWS = 500  # sequences sampled at a time,
_BATCHES = 20  # and how often in one call
_REPEATS = 200  # of the exact draws
_SAMPLES = 2**31 - 2  # beside the numbers of the training steps and the data's


@dataclass(frozen=True)
class Placed(Backbone):
    """The transformer as a network of K tokens that is told its position.

    Rotary attention knows distances only, and these positions differ in nothing but their distribution:
    LENGTH more entries of the state say which it is. Its own enter as K z, of mean 1 whatever K is.
    """

    transformer: Transformer
    inputs = ("simplex",)

    def init(self, key: Array) -> dict:
        """The transformer's parameters."""
        return self.transformer.init(key)

    def roles(self) -> dict:
        """The transformer's."""
        return self.transformer.roles()

    def apply(self, params: dict, z: Array, t: Array, dropout_keys: Array | None = None) -> Array:
        """out, float32 (B, L, K), from z (B, L, K) and t (B, 1)."""
        size = z.shape[-1]
        place = jnp.broadcast_to(jnp.eye(LENGTH, dtype=z.dtype), (*z.shape[:2], LENGTH))
        inputs = jnp.concatenate([size * z, place], axis=-1)
        return self.transformer.apply(params, inputs, t, dropout_keys)[..., :size]


def build(method: str, size: int, steps: int, seed: int) -> Experiment:
    """The experiment of a method with K = size."""
    process, sampler = METHODS[method]
    network = Transformer(
        vocab_size=size + LENGTH,
        num_layers=1,
        width=128,
        num_heads=1,
        mlp_ratio=2.0,
        time_conditioning=True,
        condition_width=32,
    )
    return Experiment(
        process=replace(process, vocab_size=size),
        model=Placed(network),
        sampler=sampler,
        optimizer=AdamW(WarmupCosine(2e-3, warmup_steps=min(100, steps // 10), decay_steps=steps)),
        train=Train(num_steps=steps, batch_size=512, seed=seed, ema_decay=0.99),
    )


def target(size: int, seed: int) -> np.ndarray:
    """(L, K) probabilities."""
    p = np.exp(np.random.default_rng([seed, size]).uniform(size=(LENGTH, size)))
    return p / p.sum(-1, keepdims=True)


def divergence(counts: np.ndarray, p: np.ndarray) -> float:
    """KL(counts (..., L, K) as frequencies || p (L, K)) in nats, the mean over all but K."""
    q = counts / counts.sum(-1, keepdims=True)
    ratio = np.where(q > 0, q, 1) / p
    return float(np.where(q > 0, q * np.log(ratio), 0).sum(-1).mean())


def count(experiment: Experiment, params: dict, samples: int) -> np.ndarray:
    """(L, K): how often each token came at each position, in `samples` sequences of the network."""
    size = experiment.process.num_tokens
    key = jax.random.fold_in(jax.random.key(experiment.train.seed), _SAMPLES)

    def batch(number, counts, params):
        rows = number * _ROWS + jnp.arange(_ROWS)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        network = partial(experiment.model.apply, params)
        process = experiment.bind(params)
        x0 = experiment.sampler.sample(keys, process, network, (_ROWS, LENGTH))
        cells = x0 + size * jnp.arange(LENGTH)[None]
        cells = jnp.where((rows < samples)[:, None], cells, LENGTH * size)  # out of range: dropped
        return counts + jnp.bincount(cells.ravel(), length=LENGTH * size)

    @jax.jit
    def several(params, first, last):
        start = jnp.zeros(LENGTH * size, jnp.int32)
        return jax.lax.fori_loop(first, last, partial(batch, params=params), start)

    batches = -(-samples // _ROWS)
    total = np.zeros(LENGTH * size, np.int64)
    for first in range(0, batches, _BATCHES):
        total += np.asarray(several(params, first, min(first + _BATCHES, batches)))
    return total.reshape(LENGTH, size)


def exact_draws(p: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the divergence of `samples` draws of p (L, K) itself."""
    rng = np.random.default_rng([seed, p.shape[-1], 1])
    drawn = [divergence(rng.multinomial(samples, p), p) for _ in range(_REPEATS)]
    return float(np.mean(drawn)), float(np.std(drawn))


def measure(size: int, steps: int, samples: int, seed: int, log: Callable[[str], None]) -> dict:
    """The figures of K = size: the floor, and for each method KL, loss and seconds."""
    p = target(size, seed)
    floor, deviation = exact_draws(p, samples, seed)
    result = {
        "size": size,
        "floor": (size - 1) / 2 / samples,
        "floor_measured": floor,
        "floor_deviation": deviation,
        "uniform": divergence(np.ones_like(p), p),
        "methods": {},
    }
    for method in METHODS:
        experiment, start = build(method, size, steps, seed), time.perf_counter()
        rows = (experiment.train.batch_size, *p.shape)
        log_p = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), rows)
        params, loss = fit(
            experiment, lambda key, log_p=log_p: (categorical(key, log_p), {}), lambda line: None
        )
        trained = time.perf_counter()
        kl = divergence(count(experiment, params, samples), p)
        seconds = {"train": trained - start, "sample": time.perf_counter() - trained}
        result["methods"][method] = {"kl": kl, "loss": loss, "seconds": seconds}
        log(f"K = {size}, {method}: loss {loss:.4f}, KL {kl:.2e}, {sum(seconds.values()):.0f} s")
    return result


def table(results: list[dict]) -> str:
    """The figures as Markdown, a row for each K."""
    names = ["K", *METHODS, "floor, measured", "(K - 1) / 2N", "uniform distribution"]
    lines = [f"| {' | '.join(names)} |", "|" + "---:|" * len(names)]
    for r in results:
        values = [m["kl"] for m in r["methods"].values()]
        values += [r["floor_measured"], r["floor"], r["uniform"]]
        lines.append(f"| {r['size']} | " + " | ".join(f"{v:.2e}" for v in values) + " |")
    return "\n".join(lines)


def _size(text: str) -> int:
    value = cli.positive(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{text}: a simplex has at least 2 tokens")
    return value


def main(arguments: list[str]) -> dict:
    """The record: the divergence of each method at each size of the simplex."""
    options = cli.parser("studies.simplex_toy", __doc__)
    options.add_argument("--out", default="runs/simplex_toy", help="the directory for the results")
    options.add_argument("--sizes", type=_size, nargs="+", default=[5, 10, 20, 40, 80], metavar="K")
    options.add_argument(
        "--steps", type=cli.positive, default=1000, help="training steps per network"
    )
    options.add_argument(
        "--samples", type=cli.positive, default=50_000, help="N, samples per network"
    )
    options.add_argument("--seed", type=cli.natural, default=0)
    args = options.parse_args(arguments)

    from experiments.figure import check_figure, draw_lines
    from experiments.files import write_atomically
    from experiments.plain_json import dumped

    out, start = Path(args.out), time.perf_counter()
    check_figure(plot := out / "simplex_toy.png")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from error
    settings = vars(args) | {"sizes": sorted(set(args.sizes)), "length": LENGTH}
    results = [
        measure(size, args.steps, args.samples, args.seed, cli.log) for size in settings["sizes"]
    ]
    record = {
        "settings": settings,
        "methods_at_first_size": {name: _encode(name, settings) for name in METHODS},
        "results": results,
        "seconds": time.perf_counter() - start,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    write_atomically(out / "simplex_toy.json", dumped(record, indent=1) + "\n")
    series = {m: [r["methods"][m]["kl"] for r in results] for m in METHODS}
    series["exact draws"] = [r["floor_measured"] for r in results]
    lines = {name: (settings["sizes"], values) for name, values in series.items()}
    y = "KL(samples || target), nats"
    write_atomically(plot, draw_lines(lines, plot.suffix, log=True, xlabel="K", ylabel=y))
    print(f"\n{table(results)}\n\nrecord and plot: {out}")
    return record


def _encode(method: str, settings: dict) -> dict:
    experiment = build(method, settings["sizes"][0], settings["steps"], settings["seed"])
    names = ("process", "model", "sampler", "optimizer", "train")
    return {name: encode(getattr(experiment, name)) for name in names}


if __name__ == "__main__":
    cli.run("studies.simplex_toy")
