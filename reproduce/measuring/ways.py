"""The ways to make a row: measure it here, check it here, or account for it on another GPU."""

import ast
import hashlib
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_args

from reproduce.machine import environment
from reproduce.machine.target import Target
from reproduce.plan import AMORTISED, PEERS, REPAIRED, ArticleMethod, Case
from reproduce.results.rows import How

PACKAGE = environment.ROOT / "reproduce"
# The files that every case depends on, in this package and in the package of its framework.
SHARED = (
    "problems/*.py",
    "machine/memory.py",
    "measuring/comparing.py",
    "measuring/measurement.py",
    "measuring/network.py",
    "measuring/timing.py",
    "measuring/worker.py",
)
OF_FRAMEWORK = ("device.py", "hvp.py", "models.py")


class Measured:
    """Rows measured on the GPU or the CPU. ``target`` is the GPU that is accounted for instead."""

    target: Target | None = None
    checks = False

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu

    def how(self, case: Case) -> How:
        """How the row of ``case`` comes about."""
        return "measured"

    def device(self, case: Case) -> str:
        """The name of the device in the row of ``case``."""
        return self.identity["device"]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The facts that must match for a row to be reused; its code and case must as well."""
        return environment.identity(self.on_gpu)

    def state(self) -> dict[str, Any]:
        """The facts that are recorded and need not match."""
        return environment.state(self.on_gpu)

    def code_hash(self, case: Case) -> str:
        """SHA-256 of the code that ``case`` depends on, docstrings and comments left out."""
        return hash_of_code(tuple(self.sources(case)))

    def sources(self, case: Case) -> list[Path]:
        """The files that ``case`` depends on."""
        names = list(OF_FRAMEWORK)
        if case.vectors > 1 or case.method in (*AMORTISED, *PEERS):
            names.append("many_vectors.py")
        if case.method in (*PEERS, *REPAIRED):
            names.append("peers.py")
        elif case.method not in (*AMORTISED, *get_args(ArticleMethod)):
            names.append("products.py")
        own = PACKAGE / f"in_{case.framework}"
        shared = [path for pattern in SHARED for path in sorted(PACKAGE.glob(pattern))]
        return [*shared, *(own / name for name in names)]


class Checked(Measured):
    """Rows measured deterministically, with digests of the results."""

    checks = True

    def how(self, case: Case) -> How:
        """How the row of ``case`` comes about."""
        return "checked"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The facts that must match for a row to be reused; check mode is one of them."""
        return super().identity | {"how": "checked"}


class Accounted(Measured):
    """Rows compiled, accounted for or counted for the GPU ``target``, which is not there."""

    target: Target

    def __init__(self, target: Target) -> None:
        super().__init__(on_gpu=False)
        self.target = target

    def how(self, case: Case) -> How:
        """How the row of ``case`` comes about."""
        if case.quantity == "operations":
            return "counted"
        return "compiled" if case.mode == "jit" else "accounted"

    def device(self, case: Case) -> str:
        """The name of the device in the row of ``case``; empty if it depends on no device."""
        return "" if case.quantity == "operations" else self.target.device

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The facts that must match for a row to be reused: the target, not this device."""
        found = {name: value for name, value in super().identity.items() if name != "device"}
        target_hash = hashlib.sha256(self.target.description.encode()).hexdigest()
        return found | {"target": self.target.name, "target_description": target_hash}

    def state(self) -> dict[str, Any]:
        """The facts that are recorded and need not match."""
        return environment.state_of_accounting()

    def sources(self, case: Case) -> list[Path]:
        """The files that ``case`` depends on."""
        own = PACKAGE / f"in_{case.framework}"
        more = [own / "accounting.py", own / "caching_allocator.py"]
        return super().sources(case) + [path for path in more if path.exists()]


@cache
def hash_of_code(paths: tuple[Path, ...]) -> str:
    """SHA-256 of the code in ``paths``, docstrings and comments left out."""
    found = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = node.body[ast.get_docstring(node) is not None :]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()
