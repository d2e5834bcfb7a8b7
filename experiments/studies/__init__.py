"""Programs that measure the project itself: python -m experiments.studies.NAME --help."""
