"""The ways in which an algorithm can end."""

from enum import Enum


class Ending(Enum):
    """How an algorithm ended. The value is a sentence for the user."""

    CONVERGED = "The residual is within the tolerance."
    LIMIT = (
        "The limit of HVPs was reached before the residual was within the tolerance: allow more, "
        "or damp the Hessian."
    )
    PRECISION = (
        "The residual is above the tolerance, and the arrays' precision keeps it from shrinking: "
        "take a wider type, a larger tolerance, or damp the Hessian."
    )
    NEGATIVE_CURVATURE = (
        "There is a direction without positive curvature, so the Hessian is not positive definite: "
        "damp it by more than the size of its most negative eigenvalue."
    )
    BREAKDOWN = (
        "A number was not finite, and the result is from before it: take a shorter step, or look "
        "for infinite or NaN values in the HVP."
    )
