"""Settings that hold for every test, made before any framework is imported."""

import os
import subprocess
import sys

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
    "TRANSFORMERS_VERBOSITY": "error",
    # Compiling takes most of the time here, and running hardly any.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


LET_INTERRUPTS_THROUGH = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def start_interruptible(command, **options):
    """A process that SIGINT reaches, also where the tests themselves run with it ignored."""
    return subprocess.Popen([sys.executable, "-c", LET_INTERRUPTS_THROUGH, *command], **options)
