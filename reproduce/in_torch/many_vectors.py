"""Many vectors at one point, in PyTorch: one after another, or several at once.

The part of an HVP that does not depend on v (the loss, its gradient and everything between) is
the same for every vector, and needs to be computed only once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from reproduce.in_torch.hvp import Loss, Tree, forward_over_reverse

State = tuple[Any, ...]
Divided = tuple[Callable[[Tree, Tree], State], Callable[[State, Tree], Tree]]
LossOfBatch = Callable[[Tree, Tree], torch.Tensor]


def linearized(loss: LossOfBatch, params: Tree, v: Tree, batch: Tree) -> Divided:
    """``at_point(params, batch)`` and ``product(state, v)``, which is ∇²f(params) v.

    The program of forward-over-reverse is recorded for tensors like ``params``, ``v`` and
    ``batch``, and divided in two. ``product`` is the part that depends on v, and the state is what
    it needs from the other part. ``torch.func.linearize`` does the same, but records anew at every
    point. Both parts can be compiled. Cost: 1 gradient for a point, 6/3 for each vector.
    """

    def hvp(params: Tree, batch: Tree, v: Tree) -> list[torch.Tensor]:
        products = forward_over_reverse(lambda params: loss(params, batch), params, v)
        return [products[name] for name in params]

    names, batch_names = list(params), list(batch)
    # Detaching makes all inputs distinct tensors, even if v is the parameters.
    trees = [
        {name: tree[name].detach() for name in order}
        for tree, order in ((params, names), (batch, batch_names), (v, names))
    ]

    def record(function: Callable[..., Any]) -> GraphModule:
        # Nothing is computed, but a network's own buffers are real.
        return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*trees)

    # Recorded twice, because functionalising refuses a network's own autograd functions.
    recorded = record(functionalize(record(hvp)))
    recorded.graph.eliminate_dead_code()
    first, second = _divided(recorded, len(names))

    def at_point(params: Tree, batch: Tree) -> tuple[torch.Tensor, ...]:
        return first(*in_order(params, names), *in_order(batch, batch_names))

    def product(state: tuple[torch.Tensor, ...], v: Tree) -> Tree:
        return dict(zip(names, second(*state, *in_order(v, names)), strict=True))

    return at_point, product


def graph_kept(loss: LossOfBatch, params: Tree, v: Tree, batch: Tree) -> Divided:
    """``at_point(params, batch)`` and ``product(state, v)``, which is ∇²f(params) v.

    The state is the gradient with autograd's graph of it. Each vector is multiplied by a backward
    pass through that graph. Cost: 1 gradient for a point, 6/3 for each vector.
    Source: PyHessian's ``hessian_vector_product``, for one batch.
    """
    names = list(params)

    def at_point(params: Tree, batch: Tree) -> tuple[Sequence[torch.Tensor], list[torch.Tensor]]:
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        inputs = in_order(leaves, names)
        return recorded_vjp([loss(leaves, batch)], inputs, create_graph=True), inputs

    def product(state: tuple[Sequence[torch.Tensor], list[torch.Tensor]], v: Tree) -> Tree:
        gradient, inputs = state
        products = recorded_vjp(gradient, inputs, in_order(v, names), retain_graph=True)
        return dict(zip(names, products, strict=True))

    return at_point, product


def recorded_vjp(
    outputs: Sequence[torch.Tensor],
    inputs: list[torch.Tensor],
    cotangents: Sequence[torch.Tensor] = (),
    **options: bool,
) -> Sequence[torch.Tensor]:
    """The VJP through autograd's graph, with zeros for an input that is not in the graph.

    That happens for a parameter that the loss does not use, or uses linearly. Without
    ``cotangents``, each is 1. ``options`` are those of ``torch.autograd.grad``.
    """
    cotangents = cotangents or [torch.ones_like(output) for output in outputs]
    pairs = [each for each in zip(outputs, cotangents, strict=True) if each[0].requires_grad]
    if not pairs:
        return [torch.zeros_like(each) for each in inputs]
    recorded, of_recorded = zip(*pairs, strict=True)
    return torch.autograd.grad(recorded, inputs, of_recorded, materialize_grads=True, **options)


def in_order(tree: Tree, names: Iterable[str]) -> list[torch.Tensor]:
    """The values of ``tree`` in the order of ``names``."""
    return [tree[name] for name in names]


def at_once(hvp: Callable[[Loss, Tree, Tree], Tree]) -> Callable[[Loss, Tree, Tree], Tree]:
    """``hvp`` for several vectors, along the first axis of ``v`` and of the result.

    Cost: 1 gradient, and 6/3 for each vector.
    """
    return lambda loss, params, v: torch.func.vmap(lambda v: hvp(loss, params, v))(v)


def stacked(vectors: list[Tree]) -> Tree:
    """``vectors`` as one dictionary, stacked along a new first axis."""
    return {name: torch.stack([v[name] for v in vectors]) for name in vectors[0]}


METHODS = {"linearized": linearized, "graph_kept": graph_kept}


def _divided(recorded: GraphModule, vectors: int) -> tuple[GraphModule, GraphModule]:
    """Split ``recorded`` into a part without its last ``vectors`` inputs, and the rest.

    The rest takes the results of the first part, then those inputs.
    """
    *nodes, output = recorded.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    depending = set(inputs[-vectors:])
    for node in nodes:
        if depending & set(node.all_input_nodes):
            depending.add(node)
    needed = {each for node in [*depending, output] for each in node.all_input_nodes}
    state = [node for node in nodes if node in needed - depending]
    computed = [node for node in nodes if node.op != "placeholder"]
    first = [node for node in computed if node not in depending]
    second = [node for node in computed if node in depending]
    return (
        _part(recorded, inputs[:-vectors], first, state),
        _part(recorded, state + inputs[-vectors:], second, output.args[0]),
    )


def _part(
    recorded: GraphModule, inputs: list[Node], nodes: list[Node], outputs: list[Node]
) -> GraphModule:
    """The program that computes ``nodes`` of ``recorded`` from ``inputs`` to get ``outputs``."""
    graph = Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(map(copies.__getitem__, outputs)))
    return GraphModule(recorded, graph)
