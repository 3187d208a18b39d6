"""With this folder on PYTHONPATH, ALTERED names what of tests/altered.py each process alters."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import altered

altered.alter(os.environ["ALTERED"])
if os.environ.get("SLURM_ARRAY_TASK_ID") and os.environ["CUDA_VISIBLE_DEVICES"]:
    print(f"{os.environ['SLURMD_NODENAME']} GPU {os.environ['CUDA_VISIBLE_DEVICES']}", flush=True)
