"""Sequences of bases with planted motifs, networks trained on them, and what guidance does to samples.

The program is `experiments.studies.motifs`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.bfn import BFN, PowerAccuracy
from diffusion.dirichlet import DirichletFlow
from diffusion.noisy_classifier import NoisyClassifier
from diffusion.random import split
from diffusion.simplex import EvidenceProcess
from experiments.config import Experiment, Train
from experiments.data.text import Text
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from experiments.studies.measuring.fit import fit
from models.classifier import Classifier
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.guidance import classifier, classifier_free
from samplers.ode import ODE
from samplers.sampler import Sampler

BASES = 4
METHODS = {
    "Dirichlet FM": (DirichletFlow(BASES, head="leave_one_out"), ODE()),
    "BFN": (BFN(BASES, PowerAccuracy(4.0), head="leave_one_out"), Ancestral()),
}


@dataclass(frozen=True)
class Task:
    """The distribution of the data: each sequence of `length` holds one of num_labels motifs, drawn
    once."""

    length: int = 16
    motif: int = 6
    num_labels: int = 4
    seed: int = 0

    @property
    def motifs(self) -> Array:
        """(N, K): N motifs of K bases."""
        return jax.random.randint(
            jax.random.key(self.seed), (self.num_labels, self.motif), 0, BASES
        )

    def draw(self, key: Array, rows: int) -> tuple[Array, Array]:
        """(sequences (B, L), labels (B,))."""
        key_background, key_label, key_place = split(key, 3)
        x = jax.random.randint(key_background, (rows, self.length), 0, BASES)
        label = jax.random.randint(key_label, (rows,), 0, self.num_labels)
        place = jax.random.randint(key_place, (rows,), 0, self.length - self.motif + 1)
        column = jnp.arange(self.length)[None] - place[:, None]
        inside = (column >= 0) & (column < self.motif)
        planted = self.motifs[label[:, None], jnp.clip(column, 0, self.motif - 1)]
        return jnp.where(inside, planted, x), label

    def contains(self, x: Array) -> Array:
        """(B, N): whether each motif occurs in x (B, L)."""
        starts = jnp.arange(self.length - self.motif + 1)
        windows = x[:, starts[:, None] + jnp.arange(self.motif)[None]]
        return (windows[:, :, None] == self.motifs[None, None]).all(-1).any(1)


@dataclass(frozen=True)
class Settings:
    """What is measured: networks of steps of training at a batch_size, and `samples` samples, each of
    sample_steps steps, for each of the strengths of guidance; seed: of all that is drawn."""

    steps: int
    batch_size: int
    samples: int
    sample_steps: int
    strengths: tuple[float, ...]
    seed: int


def networks(
    task: Task,
    process: EvidenceProcess,
    steps: int,
    batch_size: int,
    seed: int,
    log: Callable[[str], None],
) -> tuple[Callable[..., Array], Callable[[Array, Array], Array]]:
    """(model(z, t, label), log_p_labels(z, t)) with trained parameters, of a process."""
    model = Transformer(
        BASES,
        num_layers=2,
        width=64,
        num_heads=4,
        condition_width=64,
        time_conditioning=True,
        num_labels=task.num_labels,
    )
    train = Train(
        num_steps=steps, batch_size=batch_size, ema_decay=0.99, label_dropout=0.3, seed=seed
    )
    optimizer = AdamW(WarmupCosine(3e-3, warmup_steps=50, decay_steps=max(steps, 51)))
    data = Text(length=task.length)
    denoiser = Experiment(process, model, data, optimizer=optimizer, train=train)

    def draw(key):
        x0, label = task.draw(key, batch_size)
        return x0, {"label": label}

    log("denoiser")
    params, _ = fit(denoiser, draw, log)

    network = Classifier(**vars(model))
    log("classifier of noisy states")
    train = replace(train, label_dropout=0.0)
    noisy = replace(denoiser, process=NoisyClassifier(process), model=network, train=train)
    classifier_params, _ = fit(noisy, draw, log)

    def log_p_labels(z, t):
        return network.log_p_labels(classifier_params, z, t)

    return lambda z, t, label: model.apply(params, z, t, label=label), log_p_labels


def make_measure(
    task: Task,
    process: EvidenceProcess,
    sampler: Sampler,
    networks: tuple[Callable[..., Array], Callable[[Array, Array], Array]],
    kind: str,
    rows: int,
) -> Callable[[Array, float], dict[str, Array]]:
    """measure(key, strength) -> figures over `rows` samples; compiled once for all strengths."""
    denoiser, log_p_labels = networks

    @jax.jit
    def measure(key, strength):
        label = jnp.arange(rows) % task.num_labels
        nobody = jnp.full(rows, task.num_labels)

        def free(z, t):
            return denoiser(z, t, nobody)

        if kind == "classifier-free":
            model = classifier_free(process, lambda z, t: denoiser(z, t, label), free, strength)
        else:
            model = classifier(
                process,
                free,
                lambda z, t: jnp.take_along_axis(log_p_labels(z, t), label[:, None], axis=1)[:, 0],
                strength,
            )
        x = sampler.sample(key, process, model, (rows, task.length))
        contained = task.contains(x)
        right = contained[jnp.arange(rows), label]
        counts = jnp.bincount(x.reshape(-1), length=BASES) / x.size
        return {
            "right": right.mean(),
            "another": (contained.sum(1) > right).mean(),
            "bases_entropy_bits": -jnp.sum(jax.scipy.special.xlogy(counts, counts)) / jnp.log(2),
        }

    return measure


def run(task: Task, settings: Settings, log: Callable[[str], None]) -> dict:
    """The record: task and settings, and by method and kind of guidance the figures at each strength."""
    samples, seed = settings.samples, settings.seed
    exact = task.contains(task.draw(jax.random.key(1), samples)[0])
    results = {}
    for name, (process, sampler) in METHODS.items():
        log(f"\n{name}")
        trained = networks(task, process, settings.steps, settings.batch_size, seed, log)
        sampler = replace(sampler, steps=settings.sample_steps)
        for kind in ("classifier-free", "classifier"):
            measure = make_measure(task, process, sampler, trained, kind, samples)
            key = jax.random.key(seed + 1)
            rows = []
            for s in settings.strengths:
                figures = {k: float(v) for k, v in measure(key, s).items()}
                log(f"{kind}, strength {s:g}: {figures['right']:.3f} right")
                rows.append({"strength": s} | figures)
            results[f"{name}, {kind}"] = rows
    return {
        "task": asdict(task),
        "data": {"another": float((exact.sum(1) > 1).mean())},
        "settings": asdict(settings) | {"jax": jax.__version__},
        "standard_error_at_most": 0.5 / samples**0.5,
        "results": results,
    }


def table(record: dict) -> str:
    """Markdown: the fraction of right samples by strength, one row a method and kind of guidance."""
    strengths = record["settings"]["strengths"]
    lines = ["| strength | " + " | ".join(f"{s:g}" for s in strengths) + " |"]
    lines.append("|---|" + "---:|" * len(strengths))
    for name, rows in record["results"].items():
        lines.append(f"| {name} | " + " | ".join(f"{r['right']:.3f}" for r in rows) + " |")
    return "\n".join(lines)
