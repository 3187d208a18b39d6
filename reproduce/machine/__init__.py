"""The machine: its GPU, its limits, what it was when rows were measured."""
