"""The one error that a user can mend."""


class UserError(Exception):
    """An error that the user can mend: what was asked, what was found and what to do."""
