"""Low-rank adapters (LoRA) in a frozen network, in PyTorch: HVPs in the adapters alone."""

import torch
from torch import nn

parameters = r"lora_|classifier"


class Adapted(nn.Module):
    """A linear layer plus a product of two thin matrices."""

    def __init__(self, inputs, outputs, rank=4):
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.lora_a = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.lora_b = nn.Parameter(torch.randn(outputs, rank) / rank**0.5)

    def forward(self, x):
        """Return the layer's value at ``x`` of shape (…, inputs)."""
        return self.base(x) + x @ self.lora_a.T @ self.lora_b.T


class Network(nn.Module):
    """Two adapted layers, normalised, and a classifier."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            Adapted(20, 64), nn.LayerNorm(64), nn.GELU(), Adapted(64, 64), nn.LayerNorm(64)
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        """Return the logits at ``x`` of shape (batch, 20)."""
        return self.classifier(self.body(x))


def problem():
    """Return ``(model, loss, batch)``."""
    torch.manual_seed(0)
    model = Network()
    for name, value in model.named_parameters():
        value.requires_grad_("lora_" in name or "classifier" in name)
    return model, loss, (torch.randn(32, 20), torch.randint(0, 10, (32,)))


def loss(model, batch):
    """Return the mean cross-entropy."""
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels)
