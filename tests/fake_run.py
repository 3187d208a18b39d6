"""Plan smoke with fake workers: ``python tests/fake_run.py FOLDER``.

It is what the verb ``measure`` runs, without the command line, which takes longer to load.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def main():
    """Measures, and ends with code 1 if a case is not done."""
    import fake_worker  # noqa: PLC0415

    from reproduce.measuring import runner, worker  # noqa: PLC0415
    from reproduce.measuring.ways import Measured  # noqa: PLC0415
    from reproduce.plan import cases  # noqa: PLC0415

    worker.run, worker.modules = fake_worker.run_by_case, lambda framework: []
    rows = runner.measure(cases("smoke"), Path(sys.argv[1]), Measured(on_gpu=False), 60)
    sys.exit(any(row.status != "done" for row in rows))


if __name__ == "__main__":  # workers import this file, too
    main()
