"""The one error that a user can mend."""


class UserError(Exception):
    """What the user can mend; the message is one sentence: what was asked, found, and to do."""
