"""``torch.compile``'s own modules, to be loaded once before workers fork.

Finding out which vector instructions can be compiled takes it seconds; what it has found,
a process that is forked afterwards knows.
"""

from torch._inductor.cpu_vec_isa import valid_vec_isa_list

valid_vec_isa_list()
