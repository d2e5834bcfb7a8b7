"""MDLM on OpenWebText: 12 layers x 768, GPT-2's tokens, length 1024, batch 512, 1 M steps.

    python -m experiments.train --config configs/openwebtext/mdlm.py --workdir runs/owt-mdlm \\
        --set data.path=data/openwebtext --set data.tokenizer.path=data/gpt2

data/openwebtext is a folder of documents (`ddlm prepare --dataset documents`), data/gpt2 one with
encoder.json and vocab.bpe. The protocol is owt-1024 (experiments/data/protocols.py). Published:
perplexity per token at most 23.21 (MDLM). Not yet trained with this code.
"""

from dataclasses import replace

from configs.lm1b import mdlm
from experiments.config import Experiment
from experiments.data.protocols import protocol
from samplers.first_hitting import FirstHitting


def get_config() -> Experiment:
    base = mdlm.get_config()
    data = protocol("owt-1024", path="data/openwebtext")
    return replace(base, data=data, sampler=FirstHitting(steps=1024))
