"""A small GPT-2 of transformers with seeded weights, as a language model; no download."""

import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel


def problem():
    """Return ``(model, loss, batch)``."""
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 200}
    model = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    tokens = torch.randint(0, 200, (4, 32))
    return model, loss, {"input_ids": tokens, "labels": tokens}


def loss(model, batch):
    """Return the mean cross-entropy of each next token."""
    return model(**batch, use_cache=False).loss


def logits(model, batch):
    """Return the same model's logits, of shape (batch, sequence, tokens)."""
    return model(batch["input_ids"], use_cache=False).logits


def loss_of_logits(logits, batch):
    """Return the same loss, from the logits."""
    next_tokens = batch["labels"][:, 1:]
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), next_tokens.flatten())
