"""Dream-7B (arXiv 2508.15487): 28 layers x 3584 with 4 heads of keys, 7.62 B parameters.

    python -m experiments.plan --config configs/published/dream_7b.py --topology v5e:2x4 \\
        --what evaluate sample

What `ddlm import` makes of it. Parameters are float32, 30 GB over 8 chips. Plans: docs/pods.md. The
released weights were not at hand; to begin with them, --set init_from=RUN of an import. Not yet run on
a TPU.
"""

from dataclasses import replace

from configs.published import llada_8b
from experiments.config import Experiment
from experiments.data.text import Text
from experiments.data.tokenizers import Numbers
from models.transformer import Transformer
from samplers.logits_processor import LogitsProcessor
from samplers.unmask import Tokens, Unmask

TOKENS, MASK = 152_064, 151_666


def get_config() -> Experiment:
    return replace(
        llada_8b.get_config(),
        model=Transformer(
            vocab_size=TOKENS,
            num_layers=28,
            width=3584,
            num_heads=28,
            num_key_heads=4,
            head_width=128,
            mlp="swiglu",
            mlp_width=18_944,
            norm="rms",
            norm_eps=1e-6,
            head_bias=False,
            rotary_base=1_000_000.0,
            attention_bias="zero",
            shifted=True,
            scan=True,
            remat=True,
        ),
        data=Text(tokenizer=Numbers(TOKENS), length=2048),
        sampler=Unmask("confidence", Tokens(1), logits_processor=LogitsProcessor(banned=(MASK,))),
    )
