"""What an evaluation record says: the value, what kind of value it is, and all that it depends on."""

import dataclasses
import hashlib
import json
import math
import time
from importlib.metadata import version

import jax

from experiments.config import Experiment
from experiments.data.corpus import Corpus
from experiments.data.protocols import protocol_of
from experiments.data.tokenizers import COUNTED
from experiments.evaluation.breakdown import Breakdown
from experiments.evaluation.estimators import estimator_of, is_exact, kind_of, times_per_sequence
from experiments.evaluation.units import Estimate, perplexity
from experiments.labels import gives_labels
from experiments.run import Run
from experiments.serialization import encode


def per_word(result: Estimate, words: int, words_per_token: float) -> dict:
    """What a record says of words, parted by white space in the text."""
    if words == 0:
        return {"words": 0}
    share = 1 / words_per_token
    nats = float(result.nats_per_token * share)
    value, error = perplexity(nats, _known(result.standard_error() * share))
    return {
        "words": words,
        "nats_per_word": nats,
        "perplexity_per_word": value,
        "perplexity_per_word_standard_error": error,
    }


def of_source(source: str, weight: float, result: Estimate, words: int, sha256: str) -> dict:
    """What the record of a mixture says of one of its texts."""
    error = result.standard_error()
    return {
        "source": source,
        "weight": weight,
        "value": result.bits,
        "unit": result.unit,
        "standard_error": _known(result.to_bits(error)),
        "nats_per_token": result.nats_per_token,
        "nats_per_token_standard_error": _known(error),
        "sequences": len(result.tokens),
        "tokens": int(result.tokens.sum()),
        "characters": result.characters,
        **_bytes(result),
        "words": words,
        "split_sha256": sha256,
    }


def _bytes(result: Estimate) -> dict:
    """What a record says of tokens that are bytes."""
    if result.not_text is None:
        return {}
    return {"bytes": int(result.tokens.sum()), "bytes_not_text": result.not_text}


def _known(error: float) -> float | None:
    """The standard error, None where it is unknown: of one sequence, or of one time."""
    return float(error) if math.isfinite(error) else None


def context_of(experiment: Experiment, corpus: Corpus) -> dict:
    """How the text stands in sequences, what is counted, and the name of the protocol that this is."""
    data = experiment.data
    rows = {
        "wrap": "fixed chunks of the text as it goes on, not overlapping, the shorter tail included",
        "sentence": "one document a row, longer ones in several",
        "piece": "documents cut into rows of random length, padded",
        "pack": "whole documents packed into rows, none seeing another",
        "pair": "a prompt and its answer a row; answers alone are counted, given the prompts",
    }
    return {
        "protocol": protocol_of(data, corpus.bounds) or data.rows,
        "length": data.length,
        "chunks": rows[data.rows],
        "packed": data.rows in ("wrap", "pack"),
        "documents": data.document if data.by_documents else "file",
        "counted": COUNTED,
        "length_given": "segments" in data.given and not experiment.process.traits.inserts,
        "added_tokens": [token for token in (data.begin, data.end) if token],
        "bos_or_eos_counted": bool(data.begin or data.end),
    }


def precision(experiment: Experiment) -> str:
    """The type in which the network computes on this machine."""
    if experiment.model.dtype != "auto":
        return experiment.model.dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def make_record(
    run: Run,
    corpus: Corpus,
    split: str,
    result: Estimate,
    breakdown: Breakdown,
    *,
    seed: int,
    ema: bool,
    seconds: float,
) -> dict:
    """The value, what kind of value it is, and all that it depends on."""
    experiment, times = run.experiment, times_per_sequence(run.experiment)
    exact = is_exact(experiment.process)
    se = result.standard_error()
    spread, over_times = (result.to_bits(x) for x in (se, result.time_standard_error()))
    per_token, per_token_error = perplexity(result.nats_per_token, _known(se))
    tokenizer = dataclasses.asdict(experiment.data.tokenizer)
    tokenizer.pop("path", None)  # where it lies is not what it is
    tokenizer = json.dumps(tokenizer, sort_keys=True)
    device = jax.devices()[0]
    return {
        "process": type(experiment.process).__name__,
        "process_settings": encode(experiment.process),
        "value": result.bits,
        "unit": result.unit,
        "kind": kind_of(experiment),
        "standard_error": _known(spread),
        "confidence_interval_95": [_known(result.bits + side * spread) for side in (-1.96, 1.96)],
        "standard_error_over_times": 0.0 if exact else _known(over_times),
        "nats_per_token": result.nats_per_token,
        "nats_per_token_standard_error": _known(se),
        "perplexity_per_token": per_token,
        "perplexity_per_token_standard_error": per_token_error,
        "terms_nats_per_token": breakdown.terms,
        "nats_per_token_at_times": breakdown.at_times,
        "nats_per_token_at_positions": breakdown.at_positions,
        "labels": "given" if gives_labels(experiment) else "none",
        "estimator": estimator_of(experiment),
        "num_times": times,
        "seed": seed,
        "sequences": len(result.tokens),
        "tokens": int(result.tokens.sum()),
        "characters": result.characters,
        **_bytes(result),
        "context": context_of(experiment, corpus),
        "tokenizer": type(experiment.data.tokenizer).__name__,
        "tokenizer_sha256": hashlib.sha256(tokenizer.encode()).hexdigest(),
        "unknown_tokens": corpus.unknown.get(split, 0),
        "source": corpus.source,
        **({"dataset": corpus.dataset} if corpus.dataset else {}),
        "split": split,
        "split_points": experiment.data.split_points,
        "split_sha256": corpus.sha256[split],
        "ema": ema,
        "precision": precision(experiment),
        "checkpoint_step": run.step,
        "checkpoint_fingerprint": run.fingerprint,
        "device": f"{jax.device_count()} x {device.device_kind}",
        "seconds": round(seconds, 2),
        "version": version("ddlm"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
