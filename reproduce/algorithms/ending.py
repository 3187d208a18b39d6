"""The ways in which an algorithm can end."""

from enum import Enum


class Ending(Enum):
    """How an algorithm ended; the value is a sentence for its user."""

    CONVERGED = "What is left is within the tolerance."
    LIMIT = (
        "The limit of HVPs was reached before what is left was found to be within the tolerance: "
        "allow more, or damp the Hessian."
    )
    PRECISION = (
        "What is left is above the tolerance, and the arrays' precision lets it become no smaller: "
        "take a wider type, a larger tolerance, or damp the Hessian."
    )
    NEGATIVE_CURVATURE = (
        "A direction without positive curvature was met, so that the Hessian is not positive "
        "definite: damp it by more than the size of its most negative eigenvalue."
    )
    BREAKDOWN = (
        "A number was not finite, and what is returned is from before it: take a shorter step, or "
        "look for what is not finite in the HVP."
    )
