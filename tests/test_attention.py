"""The attention kernel of TPUs, interpreted on CPU: XLA's numbers, over a mesh too, and its work."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import on_devices
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from experiments.devices.sharding import AXES
from experiments.planning import hlo_costs
from experiments.planning.flops import program_flops
from experiments.planning.hlo import parse
from models import attention
from models.attention import attend, splash
from models.transformer import Transformer

HERE = os.path.dirname(os.path.abspath(__file__))


def inputs(shape, dtype=jnp.float32):
    """q, k, v and the gradient of the output."""
    return tuple(jax.random.normal(jax.random.key(i), shape, dtype) for i in range(4))


def both_ways(function, q, k, v, g):
    """Output and gradients."""
    out, backward = jax.vjp(function, q, k, v)
    return out, *backward(g)


def interpreted(q, k, v, rows=()):
    return splash(q, k, v, rows, interpret=True)


def plain(q, k, v):
    return attend(q, k, v, None, "xla")


def trace_auto(length):
    q = jax.ShapeDtypeStruct((1, 1, length, 8), jnp.float32)
    jax.eval_shape(lambda q: attend(q, q, q, None, "auto"), q)


# 384 is three blocks of 128, 512 one of 512.
@pytest.mark.parametrize(
    "length, dtype, bound",
    [(384, "float32", 1e-5), (512, "float32", 1e-5), (256, "bfloat16", 0.005)],
)
def test_the_kernel_agrees_with_xla_forward_and_backward(length, dtype, bound):
    given = inputs((2, 2, length, 16), dtype)
    got = jax.jit(lambda *a: both_ways(interpreted, *a))(*given)
    # In float32, since XLA's own form in bfloat16 is the less precise of the two.
    exact = [x.astype(jnp.float32) for x in given]
    expected = jax.jit(lambda *a: both_ways(plain, *a))(*exact)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=bound)


SPLIT = """
import jax
import numpy as np
from experiments.config import Mesh
from experiments.planning.flops import program_flops
from experiments.devices.sharding import make_mesh, replicated
from models.layers import BATCH, use_mesh
from test_attention import both_ways, inputs, interpreted, plain
mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
for shape in ((4, 2, 256, 8), (3, 3, 128, 8)):
    given = inputs(shape)
    kernel = lambda q, k, v: interpreted(q, k, v, BATCH)
    split = jax.jit(use_mesh(mesh)(lambda *a: both_ways(kernel, *a)))
    got = split(*jax.device_put(given, replicated(mesh)))
    expected = jax.jit(lambda *a: both_ways(plain, *a))(*given)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, atol=1e-5)
    print(sorted({s.data.shape[:2] for s in got[0].addressable_shards}))
    alone = jax.make_jaxpr(lambda *a: both_ways(interpreted, *a))(*given)
    print(program_flops(jax.make_jaxpr(split)(*given)) / program_flops(alone))
"""


def test_over_a_mesh_each_device_has_its_rows_and_heads():
    done = subprocess.run(
        [sys.executable, "-c", SPLIT],
        capture_output=True,
        text=True,
        env=on_devices(8) | {"PYTHONPATH": os.pathsep.join([HERE, os.path.dirname(HERE)])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # 3 rows do not divide over 4 devices, nor 3 heads over 2: each device does all of them.
    assert done.stdout.split("\n")[:4] == ["[(1, 1)]", "1.0", "[(3, 3)]", "8.0"]


@pytest.fixture
def forms(monkeypatch):
    """{"splash" or "xla": lengths that were attended so}, the kernel's lengths interpreted."""
    used = {"splash": [], "xla": []}

    def kernel(q, k, v, rows=()):
        used["splash"].append(q.shape[2])
        return interpreted(q, k, v, rows)

    def xla(q, k, v, mask=None, implementation=None):
        used[implementation].append(q.shape[1])
        return original(q, k, v, mask=mask, implementation=implementation)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "splash", kernel)
    monkeypatch.setattr(jax.nn, "dot_product_attention", xla)
    return used


def test_auto_on_a_tpu_is_the_kernel_from_the_length_on_that_pays(forms, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(attention, "LONG", 256)
    for length in (128, 256, 300, 384):
        trace_auto(length)
    assert forms == {"splash": [256, 384], "xla": [128, 300]}
    monkeypatch.setattr(
        jax, "device_count", lambda: 4
    )  # without a mesh, the kernel cannot be split
    trace_auto(length)
    assert forms == {"splash": [256, 384], "xla": [128, 300, 384]}


@pytest.mark.parametrize("platform", ["tpu", "cpu"])
def test_auto_is_that_of_the_devices_that_are_compiled_for(platform, forms, monkeypatch):
    monkeypatch.setattr(attention, "LONG", 128)
    device = AbstractDevice("some", 1, platform)
    axes = (AxisType.Auto,) * 3
    mesh = AbstractMesh((1, 1, 1), AXES, axis_types=axes, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        trace_auto(128)
    assert forms == {"splash": [128] * (platform == "tpu"), "xla": []}


def test_what_the_kernel_does_not_do_is_done_by_xla(forms):
    model = Transformer(
        vocab_size=5, num_layers=1, width=16, num_heads=2, dtype="float32", attention="splash"
    )
    z, t = jnp.zeros((2, 128), jnp.int32), jnp.ones((2, 1))
    params = jax.eval_shape(model.init, jax.random.key(0))

    def apply(model, z, **given):
        jax.eval_shape(lambda params: model.apply(params, z, t, **given), params)

    apply(model, z)
    assert forms == {"splash": [128], "xla": []}
    apply(model, z, segments=jnp.arange(128)[None].repeat(2, 0) // 64)
    apply(replace(model, block_length=1), z)
    apply(model, z[:, :96])
    assert forms == {"splash": [128], "xla": [128, 128, 96]}


# The three calls of a forward and a backward pass as libtpu 0.0.42 prints them, for 2 rows of 3 heads of
# 1024 positions by 128, less what is not read. S(1) is fast memory.
CALL = """  %{name} = {out} custom-call({operands}), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"xprof_metadata":"{{\\"block_q\\": 512, \\"block_kv\\": 512, \\"block_q_dkv\\": 512, \\"block_kv_dkv\\": 256, \\"block_q_dq\\": 128}}"
}}}}, metadata={{op_name="jit(f)/shard_map/{kernel}/pallas_call"}}
"""  # noqa: E501


def program(width=128, kernel="splash_mha", heads="2,3"):
    big, small = f"bf16[{heads},1024,{width}]{{3,2,1,0}}", f"f32[{heads},1,1024]{{3,2,1,0}}"
    fast = f"bf16[{heads},1024,{width}]{{3,2,1,0:T(8,128)S(1)}}"
    calls = [
        (
            "a",
            f"({big}, f32[{heads},1024,128]{{3,2,1,0}})",
            "%n, %q, %k, %v",
            f"{kernel}_fwd_residuals",
        ),
        ("b", f"({big}, {big})", "%n, %q, %k, %v, %s, %d, %s", f"{kernel}_dkv_no_residuals"),
        ("c", f"({big})", "%n, %q, %k, %v, %s, %d, %s", f"{kernel}_dq_no_residuals"),
    ]
    return (
        "ENTRY %main (n: s8[1,2,2]) -> f32[] {\n"
        "  %n = s8[1,2,2]{2,1,0} parameter(0)\n"
        + "".join(f"  %{n} = {big} parameter({i})\n" for i, n in enumerate("qkv", 1))
        + f"  %d = {fast} parameter(4)\n  %s = {small} parameter(5)\n"
        + "".join(CALL.format(name=n, out=o, operands=p, kernel=f) for n, o, p, f in calls)
        + '  %x = f32[8,16]{1,0} custom-call(), custom_call_target="x"\n'
        '  %y = f32[16,4]{1,0} custom-call(), custom_call_target="x"\n'
        "  ROOT %z = f32[8,4]{1,0} dot(%x, %y), lhs_contracting_dims={1}\n}\n"
    )


def test_work_and_traffic_of_the_kernel_follow_from_its_shapes_and_blocks():
    module = parse(program())
    # What comes after a kernel's attributes, which go over three lines, is read too.
    product = 2 * 8 * 16 * 4
    squares = 2 * 3 * 1024 * 1024 * 128
    assert hlo_costs.matmul_flops(module) == 2 * (2 + 4 + 3) * squares + product
    array, row = 2 * 3 * 1024 * 128 * 2, 2 * 3 * 1024 * 4
    forward = (
        array * (1 + 2 * 2) + array + 128 * row
    )  # q; k and v for each of 2 blocks; out and sums
    dkv = array * 2 + 4 * (array + 2 * row) + 2 * array  # q and sums for each of 4 blocks of keys
    dq = array + 2 * row + 8 * 2 * array + array  # k and v for each of 8 blocks of queries
    rest = 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert hlo_costs.traffic(module) == forward + dkv + dq + rest


def test_one_row_has_no_axis_of_its_own():
    for count in (hlo_costs.matmul_flops, hlo_costs.traffic):
        assert count(parse(program(heads="6"))) == count(parse(program()))


def test_narrow_heads_are_read_as_wide_as_a_kernel_takes_them():
    wide, narrow = (hlo_costs.traffic(parse(program(width))) for width in (128, 64))
    assert wide == narrow


def test_a_kernel_that_is_not_known_is_not_taken_for_nothing():
    module = parse(program(kernel="mine"))
    for count in (hlo_costs.matmul_flops, hlo_costs.traffic):
        with pytest.raises(ValueError, match=r"a is a kernel whose work"):
            count(module)


def test_flops_before_compilation_are_those_of_the_kernels():
    given = inputs((2, 3, 384, 16))
    jaxpr = jax.make_jaxpr(lambda *a: both_ways(interpreted, *a))(*given)
    rows, heads, length, width = given[0].shape
    sums = 2 * rows * heads * length * width  # out times its gradient
    assert program_flops(jaxpr) == 9 * 2 * rows * heads * length**2 * width + sums
