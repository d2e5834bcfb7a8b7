"""UDLM with noise towards the frequencies of the characters in the text, leave-one-out head.

    python -m experiments.train --config configs/sotu/udlm_unigram.py --workdir runs/udlm-unigram

As udlm.py in all but the kernel: a token is replaced by one drawn as often as it occurs in the training
text. `--set process.kernel=Stationary --set process.kernel.probabilities=FILE` takes a distribution of
your own. On the embedded corpus, with mdlm.py's model (and the time) and budget: about five minutes on
two CPU cores. Compared with udlm.py, which is better on characters: docs/measurements.md.
"""

from dataclasses import replace

from configs.sotu import udlm
from diffusion.stationary import Unigram
from diffusion.udlm import UDLM
from experiments.config import Experiment


def get_config() -> Experiment:
    return replace(udlm.get_config(), process=UDLM(kernel=Unigram()))
