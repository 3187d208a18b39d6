"""The one error that a user can mend."""


class UserError(Exception):
    """An error that the user can mend. Its one sentence: what was asked, was found, is to do."""
