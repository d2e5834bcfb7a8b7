"""Digests of arrays: what is stored beside a checkpoint and compared when it is loaded."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SEEDS = (0x9E3779B9, 0x7F4A7C15)
ON_HOST = 2**16  # values up to which an array is fetched: a program for each shape takes longer
# Words of an array on the host at a time: its mapped file may be larger than the memory.
BLOCK = 2**16


def _words(x):
    """The bits of x as uint32: x's shape, and a trailing axis of 2 for a dtype of 64 bits."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(x).astype(jnp.uint32)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    bits = jax.dtypes.itemsize_bits(x.dtype)
    return jax.lax.bitcast_convert_type(x, f"uint{min(bits, 32)}").astype(jnp.uint32)


def _mix(h):
    """The finalizer of MurmurHash3, a bijection of uint32."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


@jax.jit
def _sums(x):
    """Two sums modulo 2^32 of the words of x, each word mixed with its flat index."""
    words = _words(x)
    # Built axis by axis, without a reshape, so that a sharded array stays where it is.
    index = jnp.zeros((), jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        along = jnp.arange(words.shape[axis], dtype=jnp.uint32) * jnp.uint32(stride % 2**32)
        index = index + jnp.expand_dims(along, [a for a in range(words.ndim) if a != axis])
        stride *= words.shape[axis]
    sums = []
    for seed in SEEDS:
        mixed = _mix(words ^ _mix(index + jnp.uint32(seed)))
        sums.append(jnp.sum(mixed, dtype=jnp.uint32))
    return sums


def _on_host(x) -> bool:
    """Whether an array is of whole bytes, and numpy's, or small and all here."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or jax.dtypes.itemsize_bits(x.dtype) < 8:
        return False
    return not isinstance(x, jax.Array) or (x.size <= ON_HOST and x.is_fully_addressable)


def _sums_on_host(x):
    """As `_sums`, of a numpy array."""
    flat = np.ravel(x)
    words = flat if x.dtype == bool else flat.view(f"uint{8 * min(x.dtype.itemsize, 4)}")
    sums = [np.uint32(0) for _ in SEEDS]
    with np.errstate(over="ignore"):
        for start in range(0, words.size, BLOCK):
            block = words[start : start + BLOCK].astype(np.uint32)
            index = np.arange(len(block), dtype=np.uint32) + np.uint32(start % 2**32)
            for n, seed in enumerate(SEEDS):
                mixed = _mix(block ^ _mix(index + np.uint32(seed)))
                sums[n] += np.sum(mixed, dtype=np.uint32)
    return sums


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of tree by their path, such as "params/layers/qkv/kernel"."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in pairs}
    assert len(named) == len(pairs), "two leaves share one path: is there a '/' in a key?"
    return named


def digest(tree: Any) -> dict[str, str]:
    """A digest of the bits of each array of tree: {path: 16 hexadecimal digits}.

    It depends on values, shape and dtype, not on sharding or device count, and gathers nothing
    large: integer sums modulo 2^32 are exact in any order. One changed word always changes both sums,
    because the mixing is a bijection. It guards against bit rot, not against an attacker.
    """
    named = leaves(tree)
    # Processes on CPUs confuse the messages of programs that run at the same time.
    each = jax.device_get if jax.process_count() > 1 else lambda sums: sums
    here = jax.device_get({name: x for name, x in named.items() if _on_host(x)})
    sums = {name: each(_sums(x)) for name, x in named.items() if name not in here}
    sums = jax.device_get(sums) | {name: _sums_on_host(x) for name, x in here.items()}
    digests = {}
    for name, x in named.items():
        kind = hashlib.sha256(f"{x.dtype}{x.shape}".encode()).digest()[:8]
        bits = int(sums[name][0]) << 32 | int(sums[name][1])
        digests[name] = f"{bits ^ int.from_bytes(kind):016x}"
    return digests
