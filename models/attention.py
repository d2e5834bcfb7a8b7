"""Attention in the forms of `AttentionBackend`, one for each kind of machine.

"splash" is the kernel for TPUs that ships with JAX. XLA's own form writes the (B, H, L, L) scores of a
layer to main memory and reads them again; the kernel makes them block by block in fast memory, forward
and backward (arXiv 2205.14135). Of the two such kernels in JAX it is the one still worked on. Checked on
CPU and compiled for TPUs; not yet run on one.
"""

import math
from collections.abc import Sequence
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

AttentionBackend = Literal["auto", "transposed", "xla", "cudnn", "splash"]
BLOCKS = (512, 256, 128)  # positions that the kernel takes together: the largest that divides L
# Positions from which on "auto" is "splash" on TPUs. In plans of mdlm_1b for v5e (docs/pods.md) XLA's
# form is limited by memory from here on: at least 838 ms to the kernel's 665; at 1024, 587 to 604.
LONG = 2048


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    backend: AttentionBackend,
    rows: Sequence[str] = (),
) -> Array:
    """softmax(q k^T / sqrt(C)) v: q (B, H, L, C), k, v (B, H, N, C); mask, (L, N) or (B, L, N), is
    True where allowed.

    "transposed" multiplies in this layout, and divides by the softmax's denominator last: the fastest
    form on CPU. "cudnn" is the flash kernel of NVIDIA GPUs (half precision, no mask). "splash" is that
    of TPUs where `splash_applies`, and XLA's own form elsewhere. "auto" takes them where they apply and
    pay, and XLA's own form elsewhere. rows: the axes of a mesh over which B is spread.
    """
    chosen = _automatic(q, mask) if backend == "auto" else backend
    if chosen == "splash":
        if splash_applies(q, k, mask):
            return splash(q, k, v, rows)
        chosen = "xla"
    if mask is not None:
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if chosen == "transposed":
        q = q * q.shape[-1] ** -0.5
        scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)
        if mask is not None:
            scores = jnp.where(mask, scores, -jnp.inf)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)
        mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (mixed / total).astype(v.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    mixed = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=chosen)
    return jnp.swapaxes(mixed, 1, 2)


def _automatic(q: Array, mask: Array | None) -> Literal["transposed", "xla", "cudnn", "splash"]:
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    # A plan is compiled for devices that this machine does not have.
    platform = jax.default_backend() if device is None else device.platform
    if platform == "cpu":
        return "transposed"
    if platform == "gpu":
        half_precision = q.dtype in (jnp.bfloat16, jnp.float16)
        return "cudnn" if half_precision and mask is None and q.shape[-1] % 8 == 0 else "xla"
    # The compiler cannot split a kernel: several devices need the mesh.
    alone = not mesh.empty or jax.device_count() == 1
    return "splash" if platform == "tpu" and q.shape[2] >= LONG and alone else "xla"


def splash_applies(q: Array, k: Array, mask: Array | None) -> bool:
    """Whether the kernel computes this: every position sees every other, L is a multiple of the smallest
    block, numbers are bfloat16 or float32."""
    known = q.dtype in (jnp.bfloat16, jnp.float32)
    return mask is None and q.shape == k.shape and q.shape[2] % BLOCKS[-1] == 0 and known


def splash(
    q: Array, k: Array, v: Array, rows: Sequence[str] = (), interpret: bool = False
) -> Array:
    """`attend` by the kernel, all (B, H, L, C). Over a mesh each device is given its rows, and its heads
    of the axis "tensor", where they divide; interpret: without a TPU, slowly."""

    def part(q, k, v):
        return _splash(q, k, v, interpret)

    q = q * q.shape[-1] ** -0.5
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return part(q, k, v)
    divides = q.shape[0] % math.prod(mesh.shape[axis] for axis in rows) == 0
    heads = "tensor" if q.shape[1] % mesh.shape["tensor"] == 0 else None
    spec = P(tuple(rows) if rows and divides else None, heads)
    # Its results are not marked as varying over the mesh, which is then not checked.
    split = jax.shard_map(part, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return split(q, k, v)


def _splash(q: Array, k: Array, v: Array, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    heads, length = q.shape[1:3]
    block = next(n for n in BLOCKS if length % n == 0)
    sizes = kernels.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    mask = kernels.MultiHeadMask([kernels.FullMask((length, length))] * heads)
    kernel = kernels.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    return cast(Array, jax.vmap(kernel)(q, k, v))  # the output alone: no residuals are asked for
