"""Plans: what is read from a compiled program, its FLOPs against counting by hand, and every mistake."""

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
from experiments.overrides import load, override
from experiments.planning import compiled, hlo_costs
from experiments.planning.chips import CHIPS
from experiments.planning.compiled import (
    candidates,
    measure,
    state_bytes,
    trace_train,
    without_data,
)
from experiments.planning.flops import program_flops
from experiments.planning.hlo import parse
from experiments.training.train_step import init_state
from experiments.training.trainer import check_batch
from models.backbone import num_parameters

HERE = os.path.dirname(os.path.abspath(__file__))

# Four layers in a loop; a gather of their matrices made asynchronous in two ways, a reduce-scatter as
# the TPU compiler writes it, groups in all notations; S(1) is the chip's fast memory.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_start (p.1: bf16[128,1536]) -> (bf16[128,1536], bf16[512,1536]) {
  %p.1 = bf16[128,1536]{1,0} parameter(0)
  %gather.1 = bf16[512,1536]{1,0} all-gather(%p.1), channel_id=5, replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  ROOT %start = (bf16[128,1536]{1,0}, bf16[512,1536]{1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%fused_done (p.2: bf16[128,1536]) -> bf16[512,1536] {
  %p.2 = bf16[128,1536]{1,0} parameter(0)
  %gather.2 = bf16[512,1536]{1,0} all-gather(%p.2), channel_id=5, replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  ROOT %done = bf16[512,1536]{1,0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (p.3: f32[512,64]) -> f32[128,64] {
  %p.3 = f32[512,64]{1,0} parameter(0)
  %reduced = f32[512,64]{1,0} all-reduce(%p.3), channel_id=6, replica_groups=[2,4]<=[8], to_apply=%add
  %where = s32[] constant(0)
  ROOT %part = f32[128,64]{1,0} dynamic-slice(%reduced, %where, %where), dynamic_slice_sizes={128,64}
}

%body (carry: (s32[], bf16[128,1536], f32[512,64])) -> (s32[], bf16[128,1536], f32[512,64]) {
  %carry = (s32[], bf16[128,1536]{1,0}, f32[512,64]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%carry), index=0
  %kernel = bf16[128,1536]{1,0} get-tuple-element(%carry), index=1
  %grad = f32[512,64]{1,0} get-tuple-element(%carry), index=2
  %begun = (bf16[128,1536]{1,0}, bf16[512,1536]{1,0}) fusion(%kernel), kind=kCustom, calls=%fused_start
  %given = bf16[128,1536]{1,0} get-tuple-element(%begun), index=0
  %whole = bf16[512,1536]{1,0} fusion(%given), kind=kCustom, calls=%fused_done
  %x = bf16[4096,512]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="x"
  %y = bf16[4096,1536]{1,0:T(8,128)(2,1)} convolution(%x, %whole), dim_labels=bf_io->bf
  %scattered = f32[128,64]{1,0} fusion(%grad), kind=kCustom, calls=%all-reduce-scatter
  ROOT %next = (s32[], bf16[128,1536]{1,0}, f32[512,64]{1,0}) tuple(%number, %kernel, %grad)
}

%condition (carry.1: (s32[], bf16[128,1536], f32[512,64])) -> pred[] {
  %carry.1 = (s32[], bf16[128,1536]{1,0}, f32[512,64]{1,0}) parameter(0)
  %number.1 = s32[] get-tuple-element(%carry.1), index=0
  %layers = s32[] constant(4)
  ROOT %less = pred[] compare(%number.1, %layers), direction=LT
}

ENTRY %main (p: bf16[128,1536], /*index=1*/q: f32[512,64]) -> f32[] {
  %p = bf16[128,1536]{1,0} parameter(0)
  %q = f32[512,64]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %begin = (s32[], bf16[128,1536]{1,0}, /*index=2*/f32[512,64]{1,0}) tuple(%zero, %p, %q)
  %loop = (s32[], bf16[128,1536]{1,0}, /*index=2*/f32[512,64]{1,0}) while(%begin), condition=%condition, body=%body
  %sent = (bf16[128,1536]{1,0}, bf16[128,1536]{1,0}, u32[]) collective-permute-start(%p), channel_id=7, source_target_pairs={{0,1},{1,0}}
  %received = bf16[128,1536]{1,0} collective-permute-done(%sent)
  %turned = f32[512,64]{1,0} all-to-all(%q), channel_id=8, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  %loss = f32[] constant(1)
  ROOT %mean = f32[] all-reduce(%loss), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""  # noqa: E501


def test_collectives_are_counted_once_each_and_as_often_as_their_loop_runs():
    found = hlo_costs.collectives(parse(TEXT))
    gathered, reduced = 2 * 512 * 1536, 4 * 512 * 64
    assert found == {
        "all-gather": {"count": 4, "bytes": 4 * gathered * 3 // 4},
        "reduce-scatter": {"count": 4, "bytes": 4 * reduced * 3 // 4},
        "all-reduce": {"count": 1, "bytes": 7},  # 2 x 4 bytes x 7 / 8
        "all-to-all": {"count": 1, "bytes": reduced // 2},
        "collective-permute": {"count": 1, "bytes": gathered // 4},
    }


def test_known_trip_counts_go_before_the_condition():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    module = parse(TEXT.replace("body=%body\n", known + "\n"))
    assert module.times["body"] == module.times["fused_start"] == 3
    assert module.times["main"] == 1


def test_products_and_traffic_of_a_loop_count_every_time():
    module = parse(TEXT)
    assert hlo_costs.matmul_flops(module) == 4 * 2 * 4096 * 512 * 1536
    sent = sum(kind["bytes"] for kind in hlo_costs.collectives(module).values())
    # x is in fast memory; the product reads the gathered matrix and writes y. The reduce-scatter
    # writes its part.
    inside = 4 * (2 * 512 * 1536 + 2 * 4096 * 1536 + 4 * 128 * 64)
    assert hlo_costs.traffic(module) == 2 * sent + inside


@pytest.mark.parametrize(
    "line, flops",
    [
        ("%y = f32[8,32] dot(%a, %b), lhs_contracting_dims={1}", 2 * 8 * 16 * 32),
        ("%y = f32[8,32] convolution(%a, %b), dim_labels=bf_io->bf", 2 * 8 * 16 * 32),
        # (16, 8) heads of (1024, 64) times (64, 1024): scores of attention, as a TPU has them.
        (
            "%y = f32[16,8,1024,1024] convolution(%q, %k), window={size=16x8 stride=15x7 "
            "lhs_dilate=16x8}, dim_labels=01bf_01oi->01bf",
            2 * 16 * 8 * 1024 * 1024 * 64,
        ),
        # (16, 1024, 512) times (512, 3, 8, 64), the heads as output positions.
        (
            "%y = f32[16,1024,3,8,64] convolution(%x, %w), window={size=1x3x8 pad=0_0x2_2x7_7 "
            "rhs_reversal=0x1x1}, dim_labels=0bf12_12oi0->0b12f",
            2 * 16 * 1024 * 512 * 3 * 8 * 64,
        ),
    ],
)  # fmt: skip
def test_flops_of_products_and_of_what_tpu_programs_make_of_them(line, flops):
    module = parse(
        "ENTRY %main (a: f32[8,16]) -> f32[8,32] {\n"
        "  %a = f32[8,16]{1,0} parameter(0)\n"
        "  %b = f32[16,32]{1,0} parameter(1)\n"
        "  %q = bf16[16,8,1024,64]{3,2,1,0} parameter(2)\n"
        "  %k = bf16[16,8,1024,64]{3,2,1,0} parameter(3)\n"
        "  %x = bf16[16,1024,512,1,1]{2,1,0,3,4} parameter(4)\n"
        "  %w = bf16[3,8,64,512,1]{4,3,2,1,0} parameter(5)\n"
        f"  ROOT {line}\n}}\n"
    )
    assert hlo_costs.matmul_flops(module) == flops


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
from test_plan import experiment, hlo_costs, make_mesh, parse, program_flops, trace_train
e = experiment("mesh.fsdp=8", "model.scan=True", "model.dropout=0", "model.dtype=float32")
traced = trace_train(e, make_mesh(e.mesh))
module = parse(traced.lower().compile().as_text())
found = program_flops(traced.jaxpr), hlo_costs.matmul_flops(module), hlo_costs.collectives(module)
print(json.dumps(found))
"""


def test_eight_devices_share_the_work_of_a_step_when_parameters_are_spread():
    done = subprocess.run(
        [sys.executable, "-c", SPLIT], capture_output=True, text=True,
        env=on_devices(8) | {"PYTHONPATH": os.pathsep.join([HERE, os.path.dirname(HERE)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    whole, each, sent = json.loads(done.stdout.splitlines()[-1])
    assert whole / 8 == each
    assert sent["all-gather"]["count"] > 0


@pytest.mark.parametrize("config", ["mdlm_1b", "mdlm_8b"])
def test_all_large_arrays_of_a_state_are_spread_over_fsdp(config):
    e = experiment(config=f"configs/scale/{config}.py")
    mesh = AbstractMesh((1, 256, 1), AXES)
    state = jax.eval_shape(lambda: init_state(e))
    shardings = tree_shardings(mesh, state)
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
    assert 'pip install "ddlm[plan]"' in capsys.readouterr().err


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
