"""Training, evaluation and sampling compiled for a TPU slice on a machine that has none, and measured.

What is compiled is what a run compiles: `make_train_step` with its state placed and donated,
`make_bound` and `make_sample`, for the devices of a topology of libtpu in place of this machine's.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion.process import Likelihood
from experiments.config import Experiment
from experiments.data.protocols import SIZES
from experiments.data.subwords import Subwords
from experiments.devices.sharding import (
    AXES,
    BATCH,
    batch_shards,
    make_mesh,
    mesh_sizes,
    replicated,
    tree_shardings,
)
from experiments.errors import UserError
from experiments.evaluation.estimators import make_bound, times_per_sequence
from experiments.labels import gives_labels
from experiments.overrides import override, resolve
from experiments.planning import hlo_costs
from experiments.planning.chips import Chip, chip_of
from experiments.planning.flops import program_flops
from experiments.planning.hlo import parse
from experiments.sampling.samples import make_sample
from experiments.training.train_step import init_state
from experiments.training.trainer import check_batch, described_batch, make_step
from models.backbone import num_parameters

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def without_data(experiment: Experiment, vocab_size: int | None) -> Experiment:
    """The experiment resolved without its text, for a TPU: the size of its vocabulary is given, the
    tokenizer's own, or that of its published files; "auto" is what it is on a TPU."""
    if experiment.teacher or experiment.energy:
        raise UserError(
            f"plan: {type(experiment.process).__name__} uses the network of another run, which is "
            "not planned; plan that run instead"
        )
    tokenizer = experiment.data.tokenizer
    size = vocab_size or tokenizer.vocab_size or SIZES.get(tokenizer.sha256)
    if size is None:
        raise UserError(
            f"the size of the vocabulary of data.tokenizer {type(tokenizer).__name__} is not known "
            "without its files; give it as --vocab-size N"
        )
    if size != tokenizer.vocab_size:
        tokenizer = Subwords(sha256=tokenizer.sha256, vocab_size=size)
    if experiment.data.labels and not experiment.data.label_names:
        raise UserError(
            "data.labels: the names are not known without the data; set data.label_names"
        )
    resolved = resolve(experiment, tokenizer, label_names=experiment.data.label_names)
    model = resolved.model
    dtype = "bfloat16" if model.dtype == "auto" else model.dtype
    return replace(resolved, model=model.for_runtime(attention=None, dtype=dtype))


def tpu_devices(topology: str) -> list:
    """The devices of a slice; UserError where libtpu is missing or does not know it."""
    if find_spec("libtpu") is None:
        raise UserError(
            'plan needs libtpu, which is not installed; in the repository: pip install -e ".[plan]"'
        )
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        message = str(error).splitlines()[0]
        raise UserError(f"--topology {topology}: libtpu {version('libtpu')}: {message}") from error


def trace_train(experiment: Experiment, mesh: Mesh) -> jax.stages.Traced:
    """The training step, traced on arrays that are described and do not exist."""
    check_batch(experiment.train, mesh)
    state = jax.eval_shape(lambda: init_state(experiment))
    shardings = tree_shardings(mesh, state, experiment.roles())
    step = make_step(experiment, mesh, shardings)
    return step.trace(_placed(state, shardings), *described_batch(experiment, mesh))


def trace_evaluate(experiment: Experiment, mesh: Mesh, rows: int) -> jax.stages.Traced:
    """The bound of `rows` sequences, or their loss where there is none, traced likewise."""
    quantity = "bound" if isinstance(experiment.process, Likelihood) else "loss"
    bound = make_bound(experiment, times_per_sequence(experiment), 0, mesh, quantity)
    split, length = NamedSharding(mesh, P(BATCH)), experiment.data.length
    text = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=split)
    labels = {"label": jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=split)}
    conditioning = labels if gives_labels(experiment) else {}
    return bound.trace(_parameters(experiment, mesh), text, 0, None, conditioning)


def trace_sample(experiment: Experiment, mesh: Mesh, rows: int) -> jax.stages.Traced:
    """The sampler of `rows` sequences, traced likewise."""
    numbers = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=NamedSharding(mesh, P(BATCH)))
    known = jax.ShapeDtypeStruct((experiment.data.length,), jnp.int32, sharding=replicated(mesh))
    seed = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    params = _parameters(experiment, mesh)
    return make_sample(experiment, mesh).trace(params, seed, numbers, known)


def _parameters(experiment: Experiment, mesh: Mesh) -> dict:
    params = jax.eval_shape(lambda: experiment.init_params(jax.random.key(0)))
    return _placed(params, tree_shardings(mesh, params, experiment.roles()))


def _placed(tree, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def exhausted(message: str) -> dict | None:
    """{"total", "available"} in bytes, from what the compiler says of a program that does not fit, in
    text alone; None for another error."""
    size = r"\(?([\d.]+)([KMG]?)\)?"
    used = re.search(rf"Used {size} of {size} hbm", message) or re.search(
        rf"{size} exceeds available HBM {size}", message
    )
    if used is None:
        return None
    total, available = (int(float(used[n]) * _UNITS[used[n + 1]]) for n in (1, 3))
    return {"total": total, "available": available}


def measure(traced: jax.stages.Traced, chip: Chip) -> dict:
    """Figures of a traced program, once compiled: see docs/pods.md. {"fits": False} and what it would
    take where the compiler says that it does not fit."""
    start, flops = time.perf_counter(), program_flops(traced.jaxpr)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        size = exhausted(str(error))
        if size is None:
            raise
        return {"fits": False, "bytes_per_chip": size, "flops": flops}
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None  # the TPU compiler gives both
    size = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    size |= {"total": sum(size.values()), "available": chip.memory}
    module = parse(text)
    figures = {
        "fits": size["total"] <= chip.memory,
        "bytes_per_chip": size,
        "flops": flops,
        "flops_per_chip": hlo_costs.matmul_flops(module),
        "memory_traffic_bytes_per_chip": hlo_costs.traffic(module),
        "collectives_per_chip": hlo_costs.collectives(module),
        "compile_seconds": round(seconds, 1),
    }
    sent = sum(kind["bytes"] for kind in figures["collectives_per_chip"].values())
    least = {
        "compute": figures["flops_per_chip"] / chip.flops,
        "memory": figures["memory_traffic_bytes_per_chip"] / chip.memory_rate,
        "interconnect": sent / chip.link_rate,
    }
    slowest = max(least, key=lambda name: least[name])
    return figures | {"least_seconds": least, "seconds": least[slowest], "limited_by": slowest}


def plan(
    experiment: Experiment,
    topology: str,
    vocab_size: int | None = None,
    rows: int | None = None,
    tries: int = 4,
    log: Callable[[str], None] = print,
    what: Sequence[str] = ("train", "sample"),
) -> dict:
    """The plan of an experiment on a slice, as experiments.plan prints and stores it. rows: sequences
    that are sampled together, by default one for each part of a batch; 0 leaves the sampler out. what:
    "train", "evaluate", "sample"."""
    chip = chip_of(topology)
    experiment = without_data(experiment, vocab_size)
    devices = tpu_devices(topology)
    mesh = make_mesh(experiment.mesh, devices)
    params = jax.eval_shape(lambda: experiment.init_params(jax.random.key(0)))
    record = {
        "topology": topology,
        "chips": len(devices),
        "mesh": dict(mesh.shape),
        "parameters": num_parameters(params),
        "vocab_size": experiment.model.vocab_size,
        "versions": {name: version(name) for name in ("ddlm", "jax", "libtpu")},
    }
    if "train" in what:
        train = record["train"] = measure(trace_train(experiment, mesh), chip)
        if not train["fits"]:
            return record | {"suggestion": suggest(experiment, devices, chip, tries, log)}
        record["run"] = _run(experiment, train["seconds"])
    shards = batch_shards(mesh)
    if "evaluate" in what:
        batch = -(-experiment.evaluation.batch_size // shards) * shards
        traced = trace_evaluate(experiment, mesh, batch)
        record["evaluate"] = {"rows": batch} | measure(traced, chip)
    if "sample" in what and rows != 0 and experiment.process.traits.output == "tokens":
        batch = -(-(rows or shards) // shards) * shards
        record["sample"] = {"rows": batch} | measure(trace_sample(experiment, mesh, batch), chip)
    return record


def _run(experiment: Experiment, seconds: float) -> dict:
    """Figures of a whole training whose step takes so long."""
    config = experiment.train
    tokens = config.batch_size * experiment.data.length
    return {
        "steps": config.num_steps,
        "tokens": config.num_steps * tokens,
        "tokens_per_second": tokens / seconds,
        "hours": config.num_steps * seconds / 3600,
    }


def suggest(
    experiment: Experiment, devices: Sequence, chip: Chip, tries: int, log: Callable[[str], None]
) -> dict | None:
    """{"set": settings with which it fits} and its figures, the first of `tries` attempts; or None."""
    attempts = candidates(experiment, len(devices), chip)
    for _, settings in zip(range(tries), attempts, strict=False):
        log(f"does not fit; trying --set {' --set '.join(settings)}")
        changed = override(experiment, settings)
        figures = measure(trace_train(changed, make_mesh(changed.mesh, devices)), chip)
        if figures["fits"]:
            return {"set": settings} | figures
    return None


def candidates(experiment: Experiment, count: int, chip: Chip) -> Iterator[list[str]]:
    """Settings that take less of the chips' memory, what costs least time first: the state spread over
    more of them, layers computed again in the backward pass, smaller microbatches."""
    _, fsdp, tensor = mesh_sizes(experiment.mesh, count)
    whole = count // tensor
    settings, changed = [], experiment
    while state_bytes(changed, count) > chip.memory // 4 and fsdp < whole:
        fsdp = next(n for n in range(fsdp + 1, whole + 1) if whole % n == 0)
        settings = ["mesh.data=-1", f"mesh.fsdp={fsdp}"]
        changed = override(experiment, settings)
    if settings:
        yield settings
    saving = experiment.model.for_runtime(attention=None, remat=True)
    if saving != experiment.model:
        settings = [*settings, "model.scan=True", "model.remat=True"]
        yield settings
    rows = experiment.train.batch_size // whole
    accumulation = 2 * experiment.train.accumulation
    while accumulation <= rows and rows % accumulation == 0:
        yield [*settings, f"train.accumulation={accumulation}"]
        accumulation *= 2


def state_bytes(experiment: Experiment, count: int) -> int:
    """Bytes of the training state on each of so many chips."""
    mesh = AbstractMesh(tuple(mesh_sizes(experiment.mesh, count)), AXES)
    state = jax.eval_shape(lambda: init_state(experiment))
    sizes = jax.tree.map(
        lambda x, s: jnp.dtype(x.dtype).itemsize * math.prod(s.shard_shape(x.shape)),
        state,
        tree_shardings(mesh, state, experiment.roles()),
    )
    return sum(jax.tree.leaves(sizes))
