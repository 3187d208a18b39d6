"""The findings about the user's loss: one structure for the page, the figure and the tests."""

from typing import Literal

import msgspec
import numpy as np

from reproduce import methods
from reproduce.errors import UserError
from reproduce.plan import AMORTISED, GAUSS_NEWTON, Framework

FILE = "mine.json"
# Names of files in the results folder.
STEPS = ("Look", "Correct", "Fits?", "Time", "Answer")
Verdict = Literal["right", "wrong", "refused", "too large"]


class Product(msgspec.Struct, kw_only=True):
    """The products of one method: whether they are right, and what they cost.

    They are HVPs, or Gauss-Newton products, which have a reference of their own. ``difference`` is
    ‖Hv − reference‖ / ‖reference‖ in the precision of the check, ``error`` the same in the
    precision of the user. A timed product has ``seconds`` and, from the same rounds,
    ``gradient_seconds``; with several ``vectors``, the seconds are for all of them together.
    ``point_seconds`` is the time of the part that is computed once at a point, and
    ``target_bytes`` the memory that it needs on the GPU that was asked for.
    """

    method: str
    is_repaired: bool = False
    is_compiled: bool = False
    vectors: int = 1
    verdict: Verdict = "right"
    reason: str = ""
    difference: float | None = None
    error: float | None = None
    needed_bytes: int | None = None
    target_bytes: int | None = None
    memory_bytes: int | None = None
    point_seconds: float = 0.0
    compile_seconds: float = 0.0
    seconds: list[float] = []
    gradient_seconds: list[float] = []

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        name = methods.LABELS[self.method]
        parts = ("compiled, " if self.is_compiled else "", name, ", repaired" * self.is_repaired)
        return "".join(parts) + (f", {self.vectors} vectors at once" if self.vectors > 1 else "")

    @property
    def is_hvp(self) -> bool:
        """Whether it multiplies by the Hessian."""
        return self.method not in GAUSS_NEWTON

    @property
    def is_direct(self) -> bool:
        """Whether it is a single HVP that computes everything anew."""
        return self.is_hvp and self.method not in AMORTISED and self.vectors == 1

    @property
    def seconds_of_one(self) -> float:
        """The median time for one further vector."""
        return float(np.median(self.seconds)) / self.vectors

    @property
    def in_gradients(self) -> np.ndarray:
        """The time for one further vector over the gradient's in the same round, each round."""
        return np.divide(self.seconds, self.gradient_seconds) / self.vectors


class Found(msgspec.Struct, kw_only=True):
    """All that is found out, and what is said about it by step; ``target`` names another GPU.

    ``code_difference`` is that of the pasted code's HVP from the right one, and ``code_failure``
    the reason why the code cannot be used, if there is one.
    """

    file: str
    framework: Framework
    device: str
    versions: str
    target: str = ""
    target_memory_bytes: int = 0
    said: dict[str, list[str]] = {}
    products: list[Product] = []
    gradient_seconds: list[float] = []
    gradient_bytes: int | None = None
    code: str = ""
    code_difference: float | None = None
    code_failure: str = ""

    @property
    def timed(self) -> list[Product]:
        """The products that were timed, the fastest first."""
        timed = [each for each in self.products if each.seconds]
        return sorted(timed, key=lambda each: float(np.median(each.in_gradients)))

    @property
    def without_use(self) -> list[Product]:
        """The products that were not timed, except those that are right when repaired."""
        right = {each.method for each in self.timed}
        rest = [each for each in self.products if not each.seconds]
        return [each for each in rest if each.method not in right or each.verdict == "wrong"]

    @property
    def best(self) -> Product:
        """The fastest right HVP that computes everything anew, without torch.compile.

        Raises:
            UserError: if no method gave a right HVP.
        """
        for each in self.timed:
            if each.is_direct and not each.is_compiled:
                return each
        hvps = [each for each in self.products if each.is_hvp]
        why = "; ".join(f"{each.label}: {each.reason or each.verdict}" for each in hvps)
        raise UserError(
            f"an HVP of the loss was asked for, and no method gives a right one ({why}); look for "
            "a function of your own whose derivative cannot be differentiated, or take central "
            "differences of the gradient"
        )
