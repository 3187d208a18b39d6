"""What is loaded once, in the process that workers fork from, leaves the GPU to the workers."""

import os
import subprocess
import sys

from conftest import ROOT

from reproduce import worker

LOAD = f"""
import importlib
import torch
from reproduce import runner
torch._C._cuda_getDeviceCount = lambda: exit("CUDA was started")
runner._set_worker_environment(on_gpu=True)
for name in {[*worker.modules("torch"), worker.COMPILER_MODULE]}:
    importlib.import_module(name)
"""


def test_loading_the_compiler_does_not_start_cuda(driver):
    # Not asked for on a GPU, and it takes seconds.
    settings = driver | {"TORCHINDUCTOR_VEC_ISA_OK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | settings,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
