"""The distance of samplers from texts of a hidden Markov chain, with its exact denoiser.

The program is `experiments.studies.hidden_markov`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.ar_diffusion import ARDiffusion
from diffusion.bfn import BFN
from diffusion.d3pm import D3PM
from diffusion.dirichlet import DirichletFlow
from diffusion.gaussian import GivenEmbeddings
from diffusion.gidd import GIDD
from diffusion.hidden_markov import HiddenMarkov
from diffusion.kernels import Absorbing, Uniform
from diffusion.linear_flow import LinearFlow
from diffusion.log_snr import LinearLogSNR
from diffusion.mdlm import MDLM
from diffusion.plaid import Plaid
from diffusion.process import Process
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from experiments.studies.sampler_table import samplers, written
from samplers.ancestral import Ancestral
from samplers.sampler import Sampler
from samplers.sliding_window import SlidingWindow

VOCAB = 4
LAGS = (1, 8)


def processes() -> dict[str, Process]:
    """Processes by name whose parts need no data and no parameters of their own."""
    corners = GivenEmbeddings(tuple(map(tuple, np.eye(VOCAB).tolist())))
    return {
        "MDLM": MDLM(VOCAB),
        "SEDD(Absorbing())": SEDD(VOCAB, kernel=Absorbing()),
        "SEDD(Uniform())": SEDD(VOCAB, kernel=Uniform()),
        "UDLM": UDLM(VOCAB),
        "GIDD": GIDD(VOCAB),
        "D3PM(Absorbing())": D3PM(VOCAB, kernel=Absorbing(), num_steps=256),
        "D3PM(Uniform())": D3PM(VOCAB, kernel=Uniform(), num_steps=256),
        "DirichletFlow": DirichletFlow(VOCAB),
        "LinearFlow": LinearFlow(VOCAB),
        "BFN": BFN(VOCAB),
        "Plaid": Plaid(VOCAB, corners, LinearLogSNR(), self_conditioning=0),
        "ARDiffusion": ARDiffusion(VOCAB, corners, LinearLogSNR()),
        "ARDiffusion(token_steps=64)": ARDiffusion(VOCAB, corners, LinearLogSNR(), token_steps=64),
    }


def in_steps(sampler: Sampler, steps: int) -> Sampler | None:
    """The sampler in so many steps; None where it has a number of its own."""
    if sampler.inner is not None:
        inner = in_steps(sampler.inner, steps)
        return inner and replace(sampler, inner=inner)
    return replace(sampler, steps=steps) if sampler.steps is not None else None


def ways(process: Process, steps: Sequence[int]) -> Iterator[tuple[str, str, Sampler]]:
    """(name, compatibility, sampler) of every sampler of whole texts that goes with the process, in each
    of the numbers of steps where it leaves them open."""
    most = process.traits.max_steps
    for sampler in samplers():
        kind = sampler.compatibility(process).kind
        if kind == "unsupported" or isinstance(sampler, SlidingWindow):
            continue
        if isinstance(sampler, Ancestral) and sampler.cached:  # the same texts with fewer calls
            continue
        counts = [n for n in steps if most is None or n <= most]
        made = {n: in_steps(sampler, n) for n in counts}
        name = written(sampler)
        if None in made.values():
            yield name, kind, sampler
            continue
        for one in made.values():
            assert one is not None  # checked above
            yield name, kind, one


def distances(data: HiddenMarkov, x: np.ndarray, entropy: float) -> dict[str, float]:
    """How far texts x (B, L) are from the data: {"excess": cross-entropy less entropy, nats per token,
    "excess_error": its standard error over texts, "pairs_LAG": total variation of pairs}."""
    nats = -np.asarray(data.log_p(jnp.asarray(x)), np.float64) / data.length
    found = {
        "excess": float(nats.mean() - entropy),
        "excess_error": float(nats.std(ddof=1) / len(nats) ** 0.5),
    }
    for lag in LAGS:
        pairs = np.zeros((VOCAB, VOCAB))
        np.add.at(pairs, (x[:, :-lag], x[:, lag:]), 1)
        found[f"pairs_{lag}"] = float(np.abs(pairs / pairs.sum() - data.pairs(lag)).sum() / 2)
    return found


def entropy_of(data: HiddenMarkov, rows: int = 20_000) -> tuple[float, float]:
    """(the entropy of the data in nats per token, its standard error), the mean over so many texts."""
    nats = -np.asarray(data.log_p(data.sample(jax.random.key(1), rows)), np.float64) / data.length
    return float(nats.mean()), float(nats.std(ddof=1) / rows**0.5)


def measure(
    length: int,
    rows: int,
    seed: int,
    steps: Sequence[int],
    only: str,
    log: Callable[[str], None],
) -> dict:
    """The record: the settings, the data's own distances by counting, and a row for each process,
    sampler and number of steps."""
    data = HiddenMarkov.drawn(VOCAB, length, seed=seed)
    entropy, error = entropy_of(data)
    found = []
    for name, process in processes().items():
        if only not in name:
            continue
        model = data.denoiser(process)
        for sampler_name, kind, sampler in ways(process, steps):

            def run(key, sampler=sampler, process=process, model=model):
                return sampler.run(key, process, model, (rows, length))

            x, calls, _ = jax.jit(run)(jax.random.key(seed))
            row = {
                "process": name,
                "sampler": sampler_name,
                "steps": sampler.steps,
                "compatibility": kind,
                "calls": float(np.asarray(calls).mean()),
            } | distances(data, np.asarray(x), entropy)
            found.append(row)
            log(
                f"{name}, {sampler_name}, {row['calls']:g} calls: {row['excess']:+.4f} +- "
                f"{row['excess_error']:.4f}, pairs {row['pairs_1']:.4f}"
            )
    truth = distances(data, np.asarray(data.sample(jax.random.key(seed), rows)), entropy)
    return {
        "settings": {"length": length, "samples": rows, "seed": seed, "steps": list(steps)},
        "entropy_nats_per_token": entropy,
        "entropy_error": error,
        "data": truth,
        "rows": found,
    }


def table(record: dict) -> str:
    """Markdown: a line for each process, sampler and number of calls."""
    columns = ["excess, nats per token", *(f"pairs {lag} apart" for lag in LAGS)]
    lines = [
        "| process | sampler | said to be | calls | " + " | ".join(columns) + " |",
        "|---|---|---|" + "---:|" * (1 + len(columns)),
    ]
    given = {"process": "the data", "sampler": "", "compatibility": "", "calls": 0}
    for row in [given | record["data"], *record["rows"]]:
        cells = [row["process"], row["sampler"], row["compatibility"], f"{row['calls']:.0f}"]
        cells += [f"{row['excess']:+.4f} +- {row['excess_error']:.4f}"]
        cells += [f"{row[f'pairs_{lag}']:.4f}" for lag in LAGS]
        lines.append("| " + " | ".join(cells) + " |")
    entropy = f"{record['entropy_nats_per_token']:.4f} +- {record['entropy_error']:.4f}"
    return "\n".join([*lines, f"\nentropy of the data {entropy} nats per token"])
