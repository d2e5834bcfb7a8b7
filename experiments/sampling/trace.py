"""The record of `experiments.sampling.trace_page` from the frames of samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from diffusion.process import denoising_process
from experiments.config import Experiment
from samplers.sampler import Sampled


def trace_record(
    experiment: Experiment, name: str, samples: Sequence[tuple[int, Sampled, np.ndarray]]
) -> dict:
    """What the page plays: samples with frames and their known tokens (L,), -1 where they were sampled.

    A token that stays has the probability with which it came, where there is a mask: of a revealed token
    the model is certain ever after. A position is marked as given where it is known in every sample:
    required words stand in other places in each.
    """
    process, sampler = denoising_process(experiment.process), experiment.sampler
    vocab = process.num_tokens
    mask = process.space.mask
    known = np.all([fixed >= 0 for _, _, fixed in samples], axis=0)
    return {
        "title": f"{name}: {type(process).__name__}, {type(sampler).__name__}",
        "symbols": [experiment.data.tokenizer.decode(np.array([v])) for v in range(vocab)],
        "mask": mask,
        "given": known.tolist(),
        "samples": [
            _of_sample(number, sampled, mask is not None) for number, sampled, _ in samples
        ],
    }


def _same(frames: ArrayLike) -> bool:
    before, after = np.asarray(frames)
    return np.array_equal(before, after)


def _of_sample(number: int, sampled: Sampled, masks: bool) -> dict:
    assert sampled.frames is not None  # `sample_run` was asked for them
    times, tokens, probability = sampled.frames
    last = len(times)
    # Rows of a batch end each in its own time; what follows is the same frame again.
    while last > 2 and times[last - 2] == times[last - 1] and _same(tokens[last - 2 : last]):
        last -= 1
    tokens = tokens[:last]
    probability = probability[:last].copy()
    for k in range(1, last if masks else 0):
        stays = (tokens[k] == tokens[k - 1]) & ~np.isnan(probability[k - 1])
        probability[k] = np.where(stays, probability[k - 1], probability[k])
    return {
        "number": number,
        "times": times[:last].tolist(),
        "tokens": tokens,
        "probability": probability,
        "calls": int(sampled.calls),
    }
