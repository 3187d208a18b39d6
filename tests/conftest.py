"""Settings that hold for every test, made before any framework is imported."""

import os
import signal
import subprocess

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
    "TRANSFORMERS_VERBOSITY": "error",
    # Compiling takes most of the time here, and running hardly any.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


def start_interruptible(command, **options):
    """A process that SIGINT reaches, also where the tests themselves run with it ignored."""

    def let_interrupts_through():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command, preexec_fn=let_interrupts_through, **options)  # noqa: PLW1509
