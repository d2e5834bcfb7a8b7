"""Plans: the FLOPs of a step against counting by hand, what a plan says and does, and every mistake."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from conftest import on_devices
from jax.sharding import AbstractMesh

from experiments import cli
from experiments.config import Mesh
from experiments.data.protocols import protocol_of
from experiments.devices.sharding import AXES, make_mesh, tree_shardings
from experiments.errors import UserError
from experiments.evaluation.estimators import times_per_sequence
from experiments.overrides import load, override
from experiments.planning import compiled
from experiments.planning.chips import CHIPS
from experiments.planning.compiled import (
    candidates,
    measure,
    state_bytes,
    trace_train,
    without_data,
)
from experiments.planning.flops import program_flops
from experiments.training.train_step import init_state
from experiments.training.trainer import check_batch
from models.backbone import num_parameters

HERE = os.path.dirname(os.path.abspath(__file__))


def experiment(*settings, config="configs/smoke.py"):
    return without_data(override(load(config), list(settings)), None)


@pytest.mark.parametrize("scan, accumulation", [(True, 1), (False, 2)])
def test_flops_of_a_step_are_three_forward_passes(scan, accumulation):
    e = experiment(f"model.scan={scan}", f"train.accumulation={accumulation}", "model.num_layers=3")
    traced = trace_train(e, make_mesh(Mesh(), jax.devices()[:1]))
    tokens = e.train.batch_size * e.data.length
    assert program_flops(traced.jaxpr) == 3 * e.model.flops_per_token(e.data.length) * tokens


def test_flops_of_branches_are_those_of_the_larger_one():
    def branches(x):
        return jax.lax.cond(x.sum() > 0, lambda: x @ x @ x, lambda: x @ x)

    assert program_flops(jax.make_jaxpr(branches)(jnp.ones((5, 5)))) == 2 * 2 * 5**3


SPLIT = """
import json
from experiments.devices.sharding import make_mesh
from experiments.planning import hlo_costs
from experiments.planning.compiled import trace_train
from experiments.planning.hlo import parse
from experiments.planning.flops import program_flops
from test_plan import experiment
e = experiment("mesh.fsdp=8", "model.scan=True", "model.dropout=0", "model.dtype=float32")
traced = trace_train(e, make_mesh(e.mesh))
module = parse(traced.lower().compile().as_text())
found = program_flops(traced.jaxpr), hlo_costs.matmul_flops(module), hlo_costs.collectives(module)
print(json.dumps(found))
"""


def test_eight_devices_share_the_work_of_a_step_when_parameters_are_spread():
    done = subprocess.run(
        [sys.executable, "-c", SPLIT],
        capture_output=True,
        text=True,
        env=on_devices(8) | {"PYTHONPATH": os.pathsep.join([HERE, os.path.dirname(HERE)])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole, each, sent = json.loads(done.stdout.splitlines()[-1])
    assert whole / 8 == each
    assert sent["all-gather"]["count"] > 0


@pytest.mark.parametrize("config", ["mdlm_1b", "mdlm_8b"])
def test_all_large_arrays_of_a_state_are_spread_over_fsdp(config):
    e = experiment(config=f"configs/scale/{config}.py")
    mesh = AbstractMesh((1, 256, 1), AXES)
    state = jax.eval_shape(lambda: init_state(e))
    shardings = tree_shardings(mesh, state, e.roles())
    for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert x.size < 1e6 or math.prod(s.shard_shape(x.shape)) == x.size / 256
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    spread = state_bytes(replace(e, mesh=Mesh(fsdp=256)), 256)
    assert whole / 256 <= spread < 1.1 * whole / 256


@pytest.mark.parametrize(
    "config, billions, steps", [("100m", 0.162, 1e6), ("1b", 1.01, 1e5), ("8b", 7.93, 5e5)]
)
def test_configs_of_scale_have_the_size_and_data_they_say(config, billions, steps):
    e = experiment(config=f"configs/scale/mdlm_{config}.py")
    params = jax.eval_shape(lambda: e.init_params(jax.random.key(0)))
    assert round(num_parameters(params) / 1e9, 3 if billions < 1 else 2) == billions
    assert (e.train.num_steps, e.model.scan, e.model.remat) == (steps, True, True)
    assert (e.model.vocab_size, e.model.dtype, e.model.attention) == (50257, "bfloat16", "auto")
    assert protocol_of(e.data, {}) == "owt-1024"


@pytest.fixture
def plan(monkeypatch, capsys):
    """The plan command, its TPU played by one CPU device; figures and what is printed."""

    def run(*options, code=0, memory=2**30, count=1):
        monkeypatch.setattr(compiled, "tpu_devices", lambda topology: jax.devices()[:1] * count)
        monkeypatch.setattr(compiled, "version", lambda name: "0")
        monkeypatch.setitem(CHIPS, "v5e", replace(CHIPS["v5e"], memory=memory))
        small = ["--set", "model.dropout=0"] if "--config" not in options else []
        words = ["--config", "configs/smoke.py", "--topology", "v5e:2x2", *small, *options]
        assert cli.guarded("plan", words) == code
        out, err = capsys.readouterr()
        assert not code or (err.startswith("error: ") and err.count("\n") == 1)
        return err if code else out

    return run


def test_a_plan_says_what_its_program_takes(plan, tmp_path):
    out = plan("--out", str(tmp_path / "plan.json"))
    found = json.loads((tmp_path / "plan.json").read_text())
    e = experiment()
    train = found["train"]
    assert train["flops_per_chip"] == train["flops"]
    least = {
        "compute": train["flops"] / 197e12,
        "memory": train["memory_traffic_bytes_per_chip"] / 819e9,
        "interconnect": 0,
    }
    assert train["least_seconds"] == least
    assert (
        train["seconds"] == max(least.values()) and least[train["limited_by"]] == train["seconds"]
    )
    tokens = e.train.num_steps * e.train.batch_size * e.data.length
    assert found["run"]["tokens"] == tokens
    assert found["run"]["hours"] == pytest.approx(e.train.num_steps * train["seconds"] / 3600)
    assert found["sample"]["rows"] == 1
    calls = e.sampler.steps * e.model.flops_per_token(e.data.length) * e.data.length
    assert found["sample"]["flops"] == calls
    assert "training step: fits" in out and "sampler of 1 sequences: fits" in out
    assert "sampler" not in plan("--sample-batch", "0")


def test_what_does_not_fit_is_planned_with_less(plan, tmp_path):
    path = tmp_path / "plan.json"
    options = ["--sample-batch", "0", "--out", str(path), "--set", "model.num_layers=1"]
    plan(*options)
    total = json.loads(path.read_text())["train"]["bytes_per_chip"]["total"]
    out = plan(*options, memory=total - 1)
    found = json.loads(path.read_text())
    assert "DOES NOT FIT" in out and "run" not in found
    better = found["suggestion"]
    assert f"it fits with --set {' --set '.join(better['set'])}" in out
    assert better["bytes_per_chip"]["total"] < total
    assert "nothing that was tried fits" in plan(*options, "--tries", "0", memory=10**5)


def test_less_is_the_state_spread_then_layers_again_then_smaller_microbatches():
    e = experiment(
        "mesh.fsdp=2",
        "model.remat=False",
        "train.batch_size=1024",
        config="configs/scale/mdlm_1b.py",
    )
    less = list(candidates(e, 256, CHIPS["v5e"]))
    spread = ["mesh.data=-1", "mesh.fsdp=4"]
    assert less == [
        spread,
        [*spread, "model.scan=True", "model.remat=True"],
        [*spread, "model.scan=True", "model.remat=True", "train.accumulation=2"],
        [*spread, "model.scan=True", "model.remat=True", "train.accumulation=4"],
    ]
    for settings in less:
        check_batch(override(e, settings).train, AbstractMesh((64, 4, 1), AXES))


@pytest.mark.parametrize(
    "said",
    [
        "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (20.50G) exceeds "
        "available HBM (15.75G).",
    ],
)
def test_the_compiler_is_understood_when_it_says_that_memory_ran_out(said):
    class Traced:
        jaxpr = jax.make_jaxpr(jnp.dot)(jnp.ones((3, 5)), jnp.ones((5, 7)))

        def lower(self):
            raise jax.errors.JaxRuntimeError(f"{said}")

    size = {"total": 20.5 * 2**30, "available": 15.75 * 2**30}
    assert measure(Traced(), CHIPS["v5e"]) == {"fits": False, "bytes_per_chip": size, "flops": 210}
    said = "INTERNAL: another error"
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"):
        measure(Traced(), CHIPS["v5e"])


@pytest.mark.parametrize(
    "options, said",
    [
        (["--topology", "v9:2x2"], "chips are v5e, v5p, v6e"),
        (["--topology", "v5e:3x3"], "v5e:16x16"),
        (["--topology", "v5p"], "v5p:8x8x8"),
        (["--set", "mesh.fsdp=3"], "mesh"),
        (["--set", "data.tokenizer=Subwords"], "--vocab-size"),
        (["--set", "data.labels=period"], "data.label_names"),
        (["--config", "configs/sotu/dirichlet_one_step.py"], "another run"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(options, said, plan):
    settings = ["--set", "model.time_conditioning=True"] if "data.labels=period" in options else []
    assert said in plan(*settings, *options, code=2)


def test_a_batch_that_does_not_divide_is_rejected():
    with pytest.raises(UserError, match=r"16 sequences cannot be divided over 6 devices"):
        trace_train(experiment(), AbstractMesh((3, 2, 1), AXES))


def test_without_libtpu_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    assert cli.guarded("plan", ["--config", "configs/smoke.py", "--topology", "v5e:2x2"]) == 2
    assert 'pip install -e ".[plan]"' in capsys.readouterr().err


TORUS = """
import jax
jax.config.update("jax_platforms", "cpu")
from experiments.config import Mesh
from experiments.planning.compiled import tpu_devices
from experiments.devices.sharding import make_mesh
print(dict(make_mesh(Mesh(fsdp=16), tpu_devices("v5p:8x8x8")).shape))
"""
on_tpus = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed")


@on_tpus
def test_an_axis_may_be_part_of_a_side_of_the_torus():
    env = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run([sys.executable, "-c", TORUS], env=env, capture_output=True, text=True)
    assert "{'data': 32, 'fsdp': 16, 'tensor': 1}" in done.stdout, done.stderr[-2000:]


@on_tpus
@pytest.mark.parametrize("attention", ["auto", "splash"])
def test_a_tiny_model_is_planned_by_the_compiler_of_tpus(attention, tmp_path):
    path, small = tmp_path / "plan.json", ["--set", "model.num_layers=1", "--sample-batch", "0"]
    small += ["--set", f"model.attention={attention}", "--set", "data.length=128"]
    words = ["--config", "configs/smoke.py", "--topology", "v5e:2x2", "--out", str(path), *small]
    done = subprocess.run([sys.executable, "-m", "experiments.plan", *words], capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(path.read_text())
    assert found["chips"] == 4 and found["train"]["fits"]
    plain = experiment("model.num_layers=1").model.flops_per_token(128) * 3 * 16 * 128
    assert (found["train"]["flops"] > plain) == (attention == "splash")
    # The kernel's gradient has a product of rows that the compiler makes a sum.
    bound = 0 if attention == "auto" else 1e-3
    assert found["train"]["flops_per_chip"] == pytest.approx(found["train"]["flops"] / 4, rel=bound)
    assert found["train"]["collectives_per_chip"]["all-reduce"]["bytes"] > 0


def test_an_evaluation_is_planned_without_a_training(plan, tmp_path):
    out = plan("--what", "evaluate", "--out", str(tmp_path / "plan.json"))
    found, e = json.loads((tmp_path / "plan.json").read_text()), experiment()
    assert not {"train", "run", "sample"} & set(found) and "training step" not in out
    evaluate, rows = found["evaluate"], e.evaluation.batch_size
    assert f"evaluation of {rows} sequences: fits" in out and evaluate["rows"] == rows
    passes = times_per_sequence(e) * rows * e.data.length
    assert evaluate["flops"] == passes * e.model.flops_per_token(e.data.length)
    held = 4 * found["parameters"]
    assert held < evaluate["bytes_per_chip"]["arguments"] < held + 4 * rows * e.data.length + 100
