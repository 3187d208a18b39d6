"""Which HVP to use for a loss of the user's own: is it right, does it fit, is it fast?"""
