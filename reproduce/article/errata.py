"""Errata and omissions of the article; tests with the mark ``erratum`` support each.

The article is *How to compute Hessian-vector products?* (M. Dagréou, P. Ablin, S. Vaiter,
T. Moreau, ICLR blog posts 2024). Facts that are not in it come from the code and the raw
timings that its authors released (github.com/MatDag/bench_hvp). An HVP's time is its whole
time here. Its time less a gradient's is called its overhead.
"""

from typing import Literal

import msgspec

Kind = Literal["error", "omission", "confounder", "doubt"]
KINDS: dict[Kind, str] = {
    "error": "Errors: against the article's own data, or against mathematics",
    "omission": "Omissions: a statement lacks something that it needs",
    "confounder": "Confounders: a second difference between the things that are compared",
    "doubt": "Doubts: matters of reading, or not proven for what the article ran",
}


class Erratum(msgspec.Struct, frozen=True):
    """One departure of the article from its own data, from mathematics or from what was run.

    ``place`` is where it is in the article, ``printed`` what the article says there, and
    ``right`` what it should say. Its tests name its ``id``: ``@pytest.mark.erratum("id")``.
    """

    id: str
    kind: Kind
    place: str
    printed: str
    right: str


ERRATA = (
    # The formulas and boxes.
    Erratum(
        "bilevel-gradient",
        "error",
        "Inverse Hessian-vector products, the gradient of h",
        "the last factor is ∇_y G",
        "∇_y F; ∇_y G is zero at y*(x), which makes the printed correction vanish",
    ),
    Erratum(
        "inverse-in-direction",
        "doubt",
        "Inverse Hessian-vector products, below the linear system",
        "only computes the inverse of the matrix in the direction v",
        "in the direction b: v is the solution",
    ),
    Erratum(
        "conjugate-gradient-definite",
        "omission",
        "Box: conjugate gradient",
        "any linear system with ∇²f(x)",
        "∇²f(x) has to be positive definite; at a saddle, computing α can divide by zero",
    ),
    Erratum(
        "lanczos-start",
        "omission",
        "Box: Lanczos' algorithm",
        "any initial vector",
        "one of norm 1, or the coefficients are wrong",
    ),
    Erratum(
        "example-transposed",
        "error",
        "Reverse mode, the function before the listing of gradient",
        "½ (U Wᵀ x)²",
        "½ (U W x)², as in its definition and in every listing",
    ),
    Erratum(
        "example-shapes",
        "error",
        "Computational graph and Reverse mode, the function f and listings f, gradient",
        "U in ℝ²; f returns .5 * z2**2, gradient takes U.T @ dz2",
        "with U a vector, gradient raises; with U (1, 2), f is no scalar: U (m, n), ½ ‖z2‖²",
    ),
    # The listings.
    Erratum(
        "hessian-call",
        "error",
        "Naive computation of HVPs",
        "jax.hessian(f) @ v",
        "jax.hessian(f)(x) @ v",
    ),
    Erratum(
        "reverse-over-reverse-call",
        "error",
        "Listing hvp_reverse_over_reverse",
        "returns jax.grad(...), a function",
        "jax.grad(...)(x)",
    ),
    Erratum(
        "vjp-in-a-tuple",
        "doubt",
        "Reverse mode, the call for a VJP",
        "jax.vjp(f, x)[1](v)",
        "jax.vjp(f, x)[1](v)[0]: the result is a tuple with an entry for each variable",
    ),
    Erratum(
        "reverse-over-reverse-tree",
        "doubt",
        "Listing hvp_reverse_over_reverse",
        "jnp.vdot of the gradient and v",
        "a sum over leaves: a network's parameters are a tree, which vdot does not take",
    ),
    Erratum(
        "reverse-over-reverse-transpose",
        "doubt",
        "Listing reverse_over_reverse, by hand",
        "dz1 += dz2 * U",
        "dz1 += U.T @ dz2, as in the other listings; the printed line is right for one output, as "
        "in the text's example, and for no more",
    ),
    # What is said of costs.
    Erratum(
        "operation-counts",
        "doubt",
        "Forward mode, Reverse mode and the three methods: complexities",
        "1 evaluation: JVP about 2, gradient about 2, HVP about 4; so an HVP is 2 gradients",
        "for products with weights: JVP 3, gradient 3, HVP 8, so 8/3 gradients, or 9/3 where the "
        "gradient is computed as well, as PyTorch does without compiling",
    ),
    Erratum(
        "jvp-operations",
        "doubt",
        "Forward mode, after the listing of jvp",
        "two more operations than f",
        "three more products, where f has two",
    ),
    Erratum(
        "parents-of-a-jvp",
        "doubt",
        "Forward mode, memory of the listing of jvp",
        "a vertex has up to four parents: vz2",
        "vz2 is three elementary operations, with two parents each",
    ),
    Erratum(
        "reverse-over-reverse-operations",
        "doubt",
        "Reverse-over-reverse, before the listing by hand",
        "more elementary operations than forward-over-reverse",
        "both have ten products; the only further operation is a scalar that no result needs",
    ),
    Erratum(
        "forward-over-reverse-stores",
        "error",
        "Reverse-over-reverse, memory",
        "forward-over-reverse stores only the vertices of f",
        "it also stores their tangents (vz1 in its listing): twice what the gradient stores",
    ),
    Erratum(
        "gradient-beside-hvp",
        "error",
        "Reverse-over-forward",
        "only forward-over-reverse gives the gradient at the same time",
        "reverse-over-forward can give it, too: the derivative in v is the gradient (dvu, dvw in "
        "its listing), at the same cost as forward-over-reverse with its gradient",
    ),
    Erratum(
        "memory-and-parents",
        "doubt",
        "Computational graph, memory of an evaluation",
        "linked to the largest number of parents of a vertex",
        "the largest number of values alive at once, which the number of parents does not bound",
    ),
    # The results: figures, and what the text says of them.
    Erratum(
        "labels-exchanged",
        "error",
        "Figures bench_hvp_time_jax and bench_hvp_time_torch, left",
        "ViT, BERT",
        "BERT, ViT: the released timings have these bars under the other name",
    ),
    Erratum(
        "batch-size-of-bars",
        "error",
        "Time complexity, the left panels",
        "batch size 128",
        "the bars are at batch size 64",
    ),
    Erratum(
        "bars-are-overheads",
        "omission",
        "Figures bench_hvp_time_jax and bench_hvp_time_torch, legend and axis",
        "HVP, Time",
        "an HVP's overhead, as the text says: 1.2 to 1.6 gradients (JAX), where the HVP itself is "
        "2.2 to 2.6",
    ),
    Erratum(
        "slowest-in-all-cases",
        "error",
        "Time complexity, JAX",
        "reverse-over-reverse is the slowest in all cases",
        "true at batch 128; not for BERT at 64, which its figure shows, nor for ResNet34 at 1",
    ),
    Erratum(
        "four-to-five-gradients",
        "error",
        "Time complexity, PyTorch, ViT and BERT",
        'HVPs take "between four and five more time" than the gradient',
        "read as four to five gradients; the released timings give 3.0 to 3.6 at batch 64 and 128, "
        "and at most 4.1 at any batch size",
    ),
    Erratum(
        "discrepancy-with-theory",
        "doubt",
        "Time complexity, PyTorch, ViT and BERT",
        "a discrepancy with what we would expect in theory",
        "the text's theory is 2 gradients; by operation count PyTorch takes 9/3 "
        "(reverse-over-forward 8/3), and the released timings are at most a quarter above that",
    ),
    Erratum(
        "resnet50-left-out",
        "omission",
        "Time complexity, JAX",
        "an HVP takes two to three gradients, for three networks",
        "true of the three networks that the article announces; the released timings have a "
        "fourth, ResNet50, where reverse-over-reverse takes 3.3 to 8.4",
    ),
    Erratum(
        "linear-in-batch-size",
        "doubt",
        "Time complexity, JAX, the right panel",
        "time scales linearly with the batch size",
        "linearly with a fixed cost: from batch 1 to 16, a gradient's time grows 2.0 times",
    ),
    Erratum(
        "similar-scaling",
        "doubt",
        "Time complexity, PyTorch, ResNet34",
        "methods compare to each other as in JAX",
        "at batch 128 reverse-over-reverse takes 4.0 gradients, in JAX 2.5; the other two take 2.8 "
        "and 3.1, in JAX 2.4",
    ),
    Erratum(
        "memory-does-not-vary",
        "doubt",
        "Memory complexity, JAX with jit",
        "all HVPs of a model need the same memory",
        "nearly: for BERT, reverse-over-reverse needs 8 % less than both others",
    ),
    # What was measured, and how.
    Erratum(
        "matrix-precision",
        "confounder",
        "Time complexity, JAX beside PyTorch",
        "(not said)",
        "JAX multiplies in TF32: its ViT and BERT are faster than float32 can be; PyTorch keeps "
        "float32 by default, except in convolutions",
    ),
    Erratum(
        "token-classification",
        "error",
        "Benchmark, the link to BERT",
        "FlaxBertForTokenClassification",
        "BERT for sequence classification was run: one label per sequence, not per token",
    ),
    Erratum(
        "weight-penalty",
        "omission",
        "Time complexity, what is differentiated",
        "the gradient of the model",
        "the gradient of the mean cross-entropy plus 0.5e-4 Σ‖w‖² over parameters with more than "
        "one axis, which adds 1e-4 v to an HVP there",
    ),
    Erratum(
        "weights",
        "omission",
        "Benchmark, the three networks",
        "(not said)",
        "ResNet34 and BERT are pretrained, ViT is newly initialised; the operations are the same "
        "with any weights, the results are not",
    ),
    Erratum(
        "batch-normalisation",
        "confounder",
        "Benchmark, ResNet34",
        "(not said)",
        "it is in inference mode in JAX and removed in PyTorch: two different networks",
    ),
    Erratum(
        "running-statistics",
        "confounder",
        "Benchmark, ResNet34 in JAX",
        "(not said)",
        "the parameters that were differentiated, model.params of Flax's ResNet, include the "
        "running statistics of batch normalisation",
    ),
    Erratum(
        "first-call-memory",
        "confounder",
        "Memory complexity, all figures",
        "(not said)",
        "the rise of the whole GPU's used memory during the first call, compiling included: "
        "with jit, 0.734 GiB for every method at batch 4 and 8",
    ),
    Erratum(
        "recorded-parameters",
        "confounder",
        "Memory complexity, PyTorch",
        "forward-over-reverse needs more memory than reverse-over-forward in all cases",
        "for transformers this is only because the parameters kept requires_grad, PyTorch's "
        "default, so that autograd also recorded each HVP; without that, it needs less",
    ),
    Erratum(
        "layer-normalisation",
        "doubt",
        "Time and Memory complexity, PyTorch, ViT and BERT",
        "the three methods compute the same",
        "reverse-over-forward through PyTorch's layer_norm is wrong because of a fault in PyTorch "
        "(issue 196700), so the article probably measured a wrong product; its networks were not "
        "run in PyTorch 2.1.1 here",
    ),
)
