"""A classifier of the noisy text of mdlm.py, which guides its samples to a period of addresses.

    python -m experiments.train --config configs/sotu/mdlm.py --workdir runs/a
    python -m experiments.train --config configs/sotu/classifier.py --workdir runs/classifier \\
        --set init_from=runs/a
    python -m experiments.sample --workdir runs/a --classifier runs/classifier --label first-quarter \\
        --guidance 16

The loss is in nats a sequence, log 4 = 1.386 for four periods told apart by chance; 1.242 on validation
text at all noise, after three minutes on two cores (docs/measurements.md). For another run put its
process with its settings, `--set process.base=UDLM`; for your own labels `--set data.path=DIRECTORY
--set data.labels=folder`.
"""

from dataclasses import replace

from configs.sotu import mdlm
from diffusion.noisy_classifier import NoisyClassifier
from experiments.config import Experiment
from experiments.optimization.adamw import AdamW
from experiments.optimization.warmup_cosine import WarmupCosine
from models.classifier import Classifier


def get_config() -> Experiment:
    base = mdlm.get_config()
    return replace(
        base,
        process=NoisyClassifier(mdlm.PROCESS),
        model=Classifier(num_layers=4, width=128, num_heads=4),
        data=replace(base.data, labels="period"),
        optimizer=AdamW(WarmupCosine(peak_lr=1e-3, warmup_steps=50, decay_steps=1000), beta2=0.99),
        train=replace(base.train, label_dropout=0.0),
    )
