"""The mathematics: schedules, processes, exact draws. Imports jax and numpy alone."""
