"""A plan on a SLURM cluster: an array of jobs, one share each, and a job that collects.

The scripts are plain sbatch scripts in the results folder; the jobs' output goes there, too.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from reproduce.errors import UserError
from reproduce.machine.environment import ROOT
from reproduce.measuring import runner
from reproduce.measuring.share import Share
from reproduce.measuring.ways import Measured
from reproduce.plan import cases
from reproduce.results.files import whole_file
from reproduce.results.rows import rows_in

IN_CONTAINER = "/hvp/results"


class Cluster(msgspec.Struct, frozen=True):
    """How ``plan`` is measured into ``results``: in ``jobs`` shares, at most ``cap`` at once.

    ``options`` are further options for sbatch. ``container`` is an Apptainer image to run in.
    """

    plan: str
    results: Path
    jobs: int
    cap: int
    options: str = ""
    container: str = ""

    def missing(self) -> list[int]:
        """The numbers of the shares with a case that is missing or has crashed."""
        planned = cases(self.plan)
        missing = {*runner.pending(planned, rows_in(self.results), Measured(on_gpu=True))}
        numbers = range(1, self.jobs + 1)
        return [number for number in numbers if missing & {*Share(number, self.jobs).of(planned)}]

    def measuring(self, shares: list[int]) -> str:
        """The script that measures ``shares``, one task each."""
        array = f"{','.join(map(str, shares))}%{self.cap}"
        share = f'"$SLURM_ARRAY_TASK_ID/{self.jobs}"'
        verb = f"measure {self.plan} {self._folder} --share {share}"
        return self._script(f"--array={array} --output=slurm-%A_%a.out", verb)

    def collecting(self) -> str:
        """The script that draws and judges the rows that exist."""
        verb = f"all --no-measure --plan {self.plan} --results {self._folder}"
        return self._script("--output=slurm-%A.out", verb)

    @property
    def _folder(self) -> str:
        return IN_CONTAINER if self.container else shlex.quote(str(self.results.resolve()))

    def _script(self, options: str, verb: str) -> str:
        lines = [
            "#!/bin/sh",
            "#SBATCH --job-name=hvp-repro",
            f"#SBATCH {options}",
            f"#SBATCH {self.options}" if self.options else "",
            f"cd {shlex.quote(str(ROOT))}",
            f"exec {self._python} -m reproduce {verb}",
        ]
        return "".join(f"{line}\n" for line in lines if line)

    @property
    def _python(self) -> str:
        if not self.container:
            return shlex.quote(sys.executable)
        bind = shlex.quote(f"{self.results.resolve()}:{IN_CONTAINER}")
        image = shlex.quote(str(Path(self.container).resolve()))
        visible = '--env CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES"'
        return f"apptainer run --nv --cleanenv {visible} --pwd /hvp --bind {bind} {image} python"


def submit(path: Path, script: str, *options: str) -> str:
    """Write ``script`` to ``path``, submit it, and return its job number.

    The job's output goes into the same folder.

    Raises:
        UserError: if SLURM is missing or refuses the script.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "a job was to be submitted to SLURM, and there is no sbatch on PATH; "
            "run this where jobs are submitted, or with DRY=1 to see the scripts"
        )
    with whole_file(path) as unfinished:
        unfinished.write_text(script)
    command = ["sbatch", "--parsable", *options, path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise UserError(f"{path} was submitted, and sbatch refused it ({said}); change SBATCH")
    return done.stdout.strip().partition(";")[0]
