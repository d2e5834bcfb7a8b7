"""DiffusionBERT on LM1B in sentences: the spindle schedule on BERT, from bert-base-uncased.

    python -m experiments.import google-bert/bert-base-uncased --workdir runs/bert \\
        --tokenizer data/bert/vocab.txt
    python -m experiments.train --config configs/lm1b/diffusion_bert.py --workdir runs/diffusion-bert \\
        --set data.path=data/lm1b --set data.tokenizer.path=data/bert/vocab.txt --set init_from=runs/bert

The first command takes a local folder too. For another size than bert-base add --set init_model=run.
Without init_from BERT begins fresh. Data and vocab.txt as in configs/lm1b/mdlm.py; the network is told
no time; learning rate and warm-up of the official code, and the exact posterior of diffusion/spindle.py,
whose number is a bound; `--set process.posterior=published --set process.num_steps=2048` is the official
estimate, published as 63.78 perplexity per token. Not yet trained with this code.
"""

from dataclasses import replace

from configs.lm1b import mdlm
from diffusion.spindle import Spindle
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from models.bert import Bert
from samplers.ancestral import Ancestral


def get_config() -> Experiment:
    return replace(
        mdlm.get_config(),
        process=Spindle(),
        model=Bert(dropout=0.1),
        sampler=Ancestral(steps=128),
        optimizer=AdamW(WarmupConstant(peak_lr=5e-5, warmup_steps=10_000)),
    )
