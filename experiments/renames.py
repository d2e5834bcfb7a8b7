"""Settings under the names that earlier versions stored them by: the one place that knows old names.

`renamed` makes of the plain data of one dataclass what this version would have stored. A type that moved
is a row of TYPES, a setting of another name one of NAMES; settings that were arranged in another way
have a function in ARRANGED.
"""

from collections.abc import Callable

TYPES = {
    "experiments.config.AdamW": "experiments.optimization.adamw.AdamW",
    "samplers.distillation.OneStep": "diffusion.one_step.OneStep",
    "samplers.transform.Transform": "samplers.logits_processor.LogitsProcessor",
    "samplers.resampled.Resampled": "samplers.twisted_smc.TwistedSMC",
    "samplers.windows.Windows": "samplers.sliding_window.SlidingWindow",
    "samplers.corrected.Corrected": "samplers.predictor_corrector.PredictorCorrector",
    "diffusion.schedules.Squeezed": "diffusion.schedules.RescaledSchedule",
}

NAMES = {"transform": "logits_processor"}


def _adamw(plain: dict) -> dict:
    """The learning rate was settings of the optimiser; decay_steps None was a constant rate."""
    if "schedule" in plain:
        return plain
    rate = {
        n: plain[n] for n in ("peak_lr", "warmup_steps", "decay_steps", "final_lr") if n in plain
    }
    rest = {name: value for name, value in plain.items() if name not in rate}
    if rate.get("decay_steps") is None:
        kind, rate = (
            "warmup_constant.WarmupConstant",
            {n: v for n, v in rate.items() if n in ("peak_lr", "warmup_steps")},
        )
    else:
        kind = "warmup_cosine.WarmupCosine"
    return rest | {"schedule": {"_type": f"experiments.optimization.{kind}"} | rate}


def _one_step(plain: dict) -> dict:
    """The teacher's trajectories were those of a sampler."""
    if "sampler" not in plain:
        return plain
    rest = {name: plain[name] for name in plain if name not in ("sampler", "process", "vocab_size")}
    solved = {name: plain["sampler"][name] for name in ("steps", "end") if name in plain["sampler"]}
    return rest | solved | ({"base": plain["process"]} if "process" in plain else {})


def _uncached(plain: dict) -> dict:
    """They had ancestral sampling's cache among their settings, and it could not be on."""
    return {name: value for name, value in plain.items() if name != "cached"}


ARRANGED: dict[str, Callable[[dict], dict]] = {
    "experiments.optimization.adamw.AdamW": _adamw,
    "diffusion.one_step.OneStep": _one_step,
    "samplers.predictor_corrector.PredictorCorrector": _uncached,
    "samplers.twisted_smc.TwistedSMC": _uncached,
}


def renamed(plain: dict) -> dict:
    """The plain data of a dataclass, {"_type": ..., setting: value}, under this version's names."""
    stored = plain.get("_type")
    if not isinstance(stored, str):
        return plain
    name = TYPES.get(stored, stored)
    names = {old: new for old, new in NAMES.items() if new not in plain}
    plain = {names.get(key, key): value for key, value in plain.items()} | {"_type": name}
    return ARRANGED.get(name, dict)(plain)
