"""An autoregressive model on the bytes of LM1B: 12 layers x 768, length 128, batch 512, 500 k steps.

    python -m experiments.train --config configs/lm1b/autoregressive.py --workdir runs/lm1b-ar \\
        --set data.path=data/lm1b

data/lm1b is a file of sentences, one a line, or a folder of them (with train, valid and test in their
names, else the last tenth is held out). The text runs on over the ends of sentences. Published: 22.3 to
22.8 per WordPiece token (MDLM, BD3-LM), which does not compare with a perplexity per byte. Not yet
trained with this code.
"""

from dataclasses import replace

from configs.text8 import autoregressive
from experiments.config import Experiment
from experiments.data.text import Text
from experiments.data.tokenizers import Bytes


def get_config() -> Experiment:
    base = autoregressive.get_config()
    return replace(base, data=Text(path="data/lm1b", tokenizer=Bytes(), length=128))
