"""Networks of published checkpoints, for plans and for training from them."""
