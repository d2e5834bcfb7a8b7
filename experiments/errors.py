"""The one exception for what a user can put right: one line that says what, where, what to do."""


class UserError(Exception):
    """A mistake in a config, an option, a path or a file; the command line exits with code 2."""
