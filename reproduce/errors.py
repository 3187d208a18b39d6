"""The one error that a user can mend."""


class UserError(Exception):
    """An error that the user can mend; its one sentence says what was asked, found, and to do."""
