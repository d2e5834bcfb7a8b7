"""An enumerable distribution, its exact denoiser as a table, and the distance of samplers from it.

The program is `experiments.studies.sampler_error`.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.mdlm import MDLM
from samplers.ancestral import Ancestral
from samplers.euler import Euler, TauLeaping
from samplers.first_hitting import FirstHitting
from samplers.path_planning import PathPlanning
from samplers.predictor_corrector import PredictorCorrector
from samplers.remask import ReMDM
from samplers.sampler import Sampler
from samplers.unmask import Steps, Unmask

VOCAB = 3


def samplers(steps: int, length: int) -> dict[str, Sampler]:
    """The samplers by name, in so many steps; those of reveals only where the length has as many."""
    by_name = {
        "Ancestral": Ancestral(steps),
        "Euler": Euler(steps),
        "TauLeaping": TauLeaping(steps),
        "PredictorCorrector, gibbs": PredictorCorrector(steps),
        "PredictorCorrector, forward_backward": PredictorCorrector(
            steps, corrector="forward_backward"
        ),
        "ReMDM, rescale 0.5": ReMDM(steps, rule="rescale", eta=0.5),
        "PathPlanning": PathPlanning(steps),
    }
    if steps <= length:
        by_name |= {
            "FirstHitting in groups": FirstHitting(group=-(-length // steps)),
            "Unmask, confidence": Unmask("confidence", Steps(steps)),
            "Unmask, drawn": Unmask("drawn", Steps(steps)),
        }
    return by_name


def exact_table(p: np.ndarray, length: int) -> np.ndarray:
    """log p(x0 | z) of every state, (Z, L, V), from p (N,), sequences and states in order of digits."""
    sequences = np.array(list(itertools.product(range(VOCAB), repeat=length)))
    states = np.array(list(itertools.product(range(VOCAB + 1), repeat=length)))
    one_hot = np.eye(VOCAB)[sequences]
    table = np.empty((len(states), length, VOCAB))
    for number, z in enumerate(states):
        weights = np.where(((sequences == z) | (z == VOCAB)).all(1), p, 0)
        table[number] = np.einsum("n,nlv->lv", weights, one_hot) / weights.sum()
    with np.errstate(divide="ignore"):
        return np.log(table)


def measure(
    length: int, rows: int, seed: int, steps: Sequence[int], log: Callable[[str], None]
) -> dict:
    """The record: by sampler, the number of calls and the distance at each of the steps; counted over
    `rows` samples, of a distribution that is drawn by the seed."""
    size = VOCAB**length
    p = np.random.default_rng(seed).dirichlet(np.full(size, 0.3))
    table = jnp.asarray(exact_table(p, length), jnp.float32)
    base = (VOCAB + 1) ** np.arange(length)[::-1]
    process = MDLM(VOCAB)

    def model(z, t):
        return table[(z * base[None]).sum(-1)]

    def distance(sampler):
        run = jax.jit(lambda key: sampler.run(key, process, model, (rows, length)))
        x0, calls, _ = run(jax.random.key(seed))
        numbers = np.asarray(x0) @ VOCAB ** np.arange(length)[::-1]
        counts = np.bincount(numbers, minlength=size) / rows
        return float(np.abs(counts - p).sum() / 2), float(np.asarray(calls).mean())

    rows_of: dict[str, list[dict]] = {}
    for count in steps:
        for name, sampler in samplers(count, length).items():
            apart, calls = distance(sampler)
            rows_of.setdefault(name, []).append({"steps": count, "calls": calls, "distance": apart})
            log(f"{name}, {count} steps: {apart:.4f} in {calls:g} calls")
    exact = np.random.default_rng(1).multinomial(rows, p) / rows
    return {
        "settings": {"length": length, "samples": rows, "seed": seed, "steps": list(steps)},
        "noise_floor": float(np.abs(exact - p).sum() / 2),
        "samplers": rows_of,
    }


def table(record: dict) -> str:
    """Markdown: total variation by sampler and steps."""
    steps = record["settings"]["steps"]
    lines = ["| steps | " + " | ".join(map(str, steps)) + " |", "|---|" + "---:|" * len(steps)]
    for name, rows in record["samplers"].items():
        by_steps = {row["steps"]: f"{row['distance']:.3f}" for row in rows}
        lines.append(f"| {name} | " + " | ".join(by_steps.get(n, "") for n in steps) + " |")
    lines.append(f"\nnoise of counting {record['noise_floor']:.3f}")
    return "\n".join(lines)
