"""``torch.compile``'s own modules, to be loaded once before workers fork.

Finding out which vector instructions can be compiled takes it seconds; what it has found,
a process that is forked afterwards knows.
"""

import logging

# It would say that there is no CUDA, where none was asked for.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

from torch._inductor.cpu_vec_isa import valid_vec_isa_list  # noqa: E402

valid_vec_isa_list()
