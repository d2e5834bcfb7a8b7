"""GPT-2 becomes a masked model, as DiffuGPT (arXiv 2410.17891): shifted outputs, attention that opens.

    python -m experiments.import openai-community/gpt2 --workdir runs/gpt2
    python -m experiments.train --config configs/convert/gpt2.py --workdir runs/diffugpt \\
        --set data.path=data/openwebtext --set init_from=runs/gpt2

The network and the tokenizer are those of the run of init_from, which may be any autoregressive model of
this project too. What a position puts out still speaks of the next one, and over the first 10,000
updates it sees a growing share of the positions after it. Other ways:

    --set train.attention_annealing=0    all positions from the first update on
    --set model.shifted=False            what a position puts out speaks of itself

Not yet trained with this code.
"""

from dataclasses import replace

from configs.openwebtext import mdlm
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from models.transformer import Transformer


def get_config() -> Experiment:
    base = mdlm.get_config()
    schedule = WarmupCosine(peak_lr=3e-4, warmup_steps=2000, decay_steps=100_000, final_lr=3e-5)
    return replace(
        base,
        model=Transformer(shifted=True),
        init_model="run",
        optimizer=AdamW(schedule, beta2=0.95, weight_decay=0.1),
        train=replace(base.train, num_steps=100_000, attention_annealing=10_000),
    )
