"""A multi-layer perceptron with layer normalisation, in PyTorch."""

import torch
from torch import nn


def problem():
    """Return ``(model, loss, batch)``."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 64), nn.LayerNorm(64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 10)
    )
    batch = torch.randn(32, 20), torch.randint(0, 10, (32,))

    def loss(model, batch):
        inputs, labels = batch
        return nn.functional.cross_entropy(model(inputs), labels)

    return model, loss, batch
