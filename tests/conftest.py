"""Settings that hold for every test, made before any framework is imported."""

import os

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
    "TRANSFORMERS_VERBOSITY": "error",
    # Compiling takes most of the time here, and running hardly any.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}
