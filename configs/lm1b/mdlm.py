"""MDLM on LM1B in sentences: 12 layers x 768, BERT's tokens, length 128, batch 512, 1 M steps.

    python -m experiments.train --config configs/lm1b/mdlm.py --workdir runs/lm1b-mdlm \\
        --set data.path=data/lm1b --set data.tokenizer.path=data/bert/vocab.txt

data/lm1b is a folder of sentences, one a line, with train, valid and test in the names of its files
(`ddlm prepare --dataset lm1b`), and vocab.txt that of bert-base-uncased. The protocol is
lm1b-sentence128 (experiments/data/protocols.py); `--set data.rows=wrap` makes it lm1b-wrap128,
`--set data.rows=pack` lm1b-pack128. Published: perplexity per token at most 27.04 in sentences (MDLM),
31.78 wrapped (BD3-LM). Not yet trained at this size with this code; a small one: docs/measurements.md.
"""

from dataclasses import replace

from configs.text8 import mdlm
from experiments.config import Experiment
from experiments.data.protocols import protocol
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_constant import WarmupConstant
from samplers.first_hitting import FirstHitting


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        model=replace(base.model, dropout=0.1),
        data=protocol("lm1b-sentence128", path="data/lm1b"),
        sampler=FirstHitting(steps=128),
        optimizer=AdamW(WarmupConstant(peak_lr=3e-4, warmup_steps=2500)),
    )
