"""The backbone behind init(key) -> params and apply(params, z, t). Imports jax, flax and einops."""
