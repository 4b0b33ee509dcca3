"""The one exception that means "the input is at fault": its text is a sentence for the user."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message says in one line what was wrong, with its value, and what to do about it.

    The command line prints it and exits with status 2, the engine sends it as an answer of kind "input", the panel
    shows it as it is. It never holds patient data: no names, no identifiers, no paths below a file's own name.
    """


class Cancelled(Exception):
    """Work ended because it was asked to stop; nothing is wrong."""
