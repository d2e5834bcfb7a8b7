"""Published checkpoints, in and out: families of them, how their files hold our parameters, and runs."""
