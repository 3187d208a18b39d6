"""The command line, altered: ``python tests/altered.py ALTERATION[,ALTERATION] VERB ...``.

It is the real one but for what its first argument names: the functions of this file.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def fake_worker():
    """Workers give numbers that depend on the case alone, and load no framework."""
    import fake_worker as fake  # noqa: PLC0415

    from reproduce.measuring import worker  # noqa: PLC0415

    worker.run, worker.modules = fake.run_by_case, lambda framework: []


def no_reserve():
    """A disk may be small."""
    from reproduce.measuring import preflight  # noqa: PLC0415

    preflight.NEEDED_DISK_BYTES = 0


def part():
    """Of a plan, the four timings of tiny_bert in PyTorch, and one in JAX."""
    from reproduce import plan  # noqa: PLC0415
    from reproduce.cli import measuring  # noqa: PLC0415

    def cases(name, **options):
        timed = [case for case in plan.cases(name, **options) if case.quantity == "time"]
        torch = [case for case in timed if (case.framework, case.model) == ("torch", "tiny_bert")]
        jax = [case for case in timed if case.mode == "jit" and case.method == "gradient"]
        return [*torch, next(case for case in jax if case.model == "tiny_bert")]

    measuring.cases = cases


def no_computing():
    """A GPU need not compute: it is tests/nvml.c that says there is one."""
    from reproduce.machine import computing  # noqa: PLC0415

    computing.on_gpu = lambda frameworks: {}


def alter(names):
    """Alters what ``names`` says, with commas between."""
    known = (fake_worker, no_reserve, part, no_computing)
    by_name = {alteration.__name__: alteration for alteration in known}
    for name in names.split(","):
        by_name[name]()


def main():
    """Alters, and runs the verb."""
    from reproduce.__main__ import main as run  # noqa: PLC0415

    alter(sys.argv.pop(1))
    run()


if __name__ == "__main__":  # workers import this file, too
    main()
