"""Measuring with other versions of the frameworks: the article's, or the newest.

Each lock has its own environment, separate from this one. Its rows are drawn and judged in this
one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from reproduce.errors import UserError
from reproduce.machine.environment import ROOT
from reproduce.plan import Framework


class Lock(NamedTuple):
    """A lock in the root: its name, its Python, and the one framework in it, or None for both."""

    name: str
    python: str
    framework: Framework | None

    @property
    def path(self) -> Path:
        """The file of the lock."""
        return ROOT / f"requirements-{self.name}.lock"

    def environment(self) -> Path:
        """The folder of the environment with what is locked, made if it is not there.

        Raises:
            UserError: if it cannot be made.
        """
        folder = Path(f"{sys.prefix}-{self.name}")
        made_from = folder / "hvp-repro-made-from"
        if made_from.exists() and made_from.read_bytes() == self.path.read_bytes():
            return folder
        sentence = f"Making {folder} from {self.path.name}: 5 GB, a minute on a good line."
        print(sentence, file=sys.stderr, flush=True)
        _uv("venv", "--quiet", "--allow-existing", "--python", self.python, folder)
        _uv("pip", "sync", "--quiet", "--require-hashes", "--python", folder, self.path)
        shutil.copy(self.path, made_from)
        return folder


# JAX and PyTorch of 2023 need different NCCLs.
LOCKS = {
    "2023": (Lock("2023-jax", "3.11", "jax"), Lock("2023-torch", "3.11", "torch")),
    "latest": (Lock("latest", "3.12", None),),
}
WITH_TORCH = [lock for locks in LOCKS.values() for lock in locks if lock.framework != "jax"]


def measure_with(versions: str, plan: str, folder: Path) -> int:
    """The code that measuring ``plan`` into ``folder`` with ``versions`` ends with.

    That is 0, or 1 if a case failed.

    Raises:
        UserError: if there are no such versions, or the plan was refused.
    """
    if versions not in LOCKS:
        raise UserError(f"versions {versions!r} were asked for; there are {', '.join(LOCKS)}")
    codes = []
    for lock in LOCKS[versions]:
        only = ("--framework", lock.framework) if lock.framework else ()
        python = lock.environment() / "bin" / "python"
        command = [python, "-m", "reproduce", "measure", plan, folder, *only]
        codes.append(subprocess.run(command, cwd=ROOT, check=False).returncode)
        if codes[-1] > 1:
            raise UserError(
                f"plan {plan!r} with {lock.path.name} was asked for, and was refused for the "
                "reason above; mend that, and run the same command again"
            )
    return max(codes)


def printed_with(lock: Lock, *arguments: str) -> bytes:
    """What ``python -m reproduce`` prints with the versions of ``lock``.

    Raises:
        UserError: if it fails.
    """
    python = lock.environment() / "bin" / "python"
    command: list[str | Path] = [python, "-m", "reproduce", *arguments]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if ended.returncode:
        raise UserError(
            f"{' '.join(arguments)!r} with {lock.path.name} was asked for, and failed for the "
            "reason above; mend that, and run the same command again"
        )
    return ended.stdout


def _uv(*arguments: str | Path) -> None:
    search = os.pathsep.join((str(Path(sys.prefix, "bin")), os.environ.get("PATH", "")))
    try:
        subprocess.run([shutil.which("uv", path=search) or "uv", *arguments], check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            "an environment of other versions was asked for, and uv could not make it, for the "
            "reason above; it needs a package index, and a Python of the lock's version on PATH "
            "or a line to get one"
        ) from None
