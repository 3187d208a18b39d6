"""The machine: its GPU, its limits, and its state when rows were measured."""
