"""Whether the frameworks can compute on the GPU: one real product in each."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from reproduce.errors import UserError
from reproduce.machine import environment
from reproduce.plan import Framework

# A framework may list a GPU without having code for it, so each has to multiply matrices there.
# Then it loads the networks, which no process loads once for all workers on a GPU.
PROGRAMS: dict[Framework, str] = {
    "jax": "import jax; x = jax.numpy.ones((8, 8)); print((x @ x).block_until_ready().device); "
    "import reproduce.in_jax.models",
    "torch": "import torch; x = torch.ones(8, 8, device='cuda'); (x @ x).cpu(); print(x.device); "
    "import reproduce.in_torch.models",
}
LIMIT_SECONDS = 120


def on_gpu(frameworks: Iterable[Framework]) -> dict[Framework, str]:
    """The chosen GPU by each framework's name for it; each has just computed on it.

    Raises:
        UserError: if one of them cannot compute on it.
    """
    names = sorted(frameworks)
    at_once = 1 if environment.chosen_gpu().is_for_one_process() else len(names)
    with ThreadPoolExecutor(at_once) as side_by_side:
        return dict(zip(names, side_by_side.map(_computed_on, names), strict=True))


@cache
def _computed_on(framework: Framework) -> str:
    variables = {
        "CUDA_VISIBLE_DEVICES": environment.chosen_gpu().uuid,
        "JAX_PLATFORMS": "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAMS[framework]],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"no result within {LIMIT_SECONDS} s"
    else:
        if done.returncode == 0:
            return done.stdout.strip()
        # The first error is the cause: JAX logs it, and then raises one that says nothing.
        errors = re.findall(r"^[\w.]*Error: .+", done.stderr, re.MULTILINE)
        reason = errors[0] if errors else f"exit code {done.returncode}"
    raise UserError(
        f"NVML finds a GPU and {framework} cannot use it ({reason}); run 'make setup' for packages "
        "as they are pinned, update NVIDIA's driver, or take PLAN=cpu"
    )
