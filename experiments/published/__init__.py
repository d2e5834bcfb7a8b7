"""Published checkpoints, in and out: families of them, how their files hold our parameters, and runs."""

SOURCE = "source.json"  # of a run that was imported: where its parameters are from
BASE = "base.json"  # of a run that began with an imported one: the source.json of that
