"""The families of published checkpoints, a file for each architecture."""
