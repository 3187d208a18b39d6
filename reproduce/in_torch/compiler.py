"""``torch.compile``'s own modules, to be loaded once before workers fork.

Finding out which vector instructions can be compiled takes it seconds; what it has found,
a process that is forked afterwards knows.
"""

import logging
from threading import RLock

# It would say that there is no CUDA, where none was asked for.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

import torch._inductor.compile_fx  # noqa: E402, F401
from torch._inductor.cpu_vec_isa import valid_vec_isa_list  # noqa: E402
from tqdm import tqdm  # noqa: E402

valid_vec_isa_list()
tqdm.set_lock(RLock())  # its own would be a semaphore, which a worker leaves behind
