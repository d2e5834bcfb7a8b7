"""A logistic regression on embeddings of the text, which guides DGLM to a period of addresses.

    python -m experiments.train --config configs/sotu/dglm_classifier.py --workdir runs/period \\
        --set init_from=runs/dglm
    python -m experiments.sample --workdir runs/dglm --classifier runs/period --label first-quarter \\
        --guidance 4

The encoder is that of runs/dglm (configs/sotu/dglm.py), and never changes. The loss is in nats a
sequence, log 4 = 1.386 for four periods told apart by chance. For your own labels
`--set data.path=DIRECTORY --set data.labels=folder`.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.embedding_classifier import EmbeddingClassifier
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from models.logistic_regression import LogisticRegression


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=EmbeddingClassifier(),
        model=LogisticRegression(),
        data=replace(base.data, labels="period"),
        optimizer=AdamW(WarmupCosine(peak_lr=1e-2, warmup_steps=10, decay_steps=300), beta2=0.99),
        train=replace(base.train, num_steps=300, batch_size=64, label_dropout=0.0),
        init_model="run",
    )
