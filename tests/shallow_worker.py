"""Workers that measure the article's networks with fewer layers, each as wide as it is there."""

import msgspec

from reproduce import problems
from reproduce.measuring import worker

FEWER_LAYERS = {
    "resnet34": {"depths": [1, 1, 1, 1]},
    "vit": {"num_hidden_layers": 2},
    "bert": {"num_hidden_layers": 2},
}
PROBLEMS = {
    name: msgspec.structs.replace(problem, config=problem.config | FEWER_LAYERS[name])
    for name, problem in problems.PROBLEMS.items()
    if name in FEWER_LAYERS
}


def run(connection, cases, site):
    """Measures ``cases`` as any worker does, of the networks above."""
    problems.PROBLEMS.update(PROBLEMS)
    worker.run(connection, cases, site)
