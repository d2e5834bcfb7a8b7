"""MDLM on OpenWebText for a pod: 12 layers x 768, 162 M parameters, batch 512 x 1024, 1 M steps.

    python -m experiments.plan --config configs/scale/mdlm_100m.py --topology v5e:16x16
    python -m experiments.train --config configs/scale/mdlm_100m.py --workdir runs/mdlm-100m \\
        --set data.path=data/openwebtext --set data.tokenizer.path=data/gpt2

The network of configs/openwebtext/mdlm.py without dropout, 85 M of its parameters in the layers. The
state takes 2.6 GB, so every chip has all of it and the batch alone is spread. Plans for 256 and 512
chips: docs/pods.md. Not yet trained with this code.
"""

from dataclasses import replace

from configs.openwebtext import mdlm
from experiments.config import Experiment


def get_config() -> Experiment:
    base = mdlm.get_config()
    model = replace(base.model, dropout=0.0, scan=True, remat=True, dtype="bfloat16")
    return replace(base, model=model)
