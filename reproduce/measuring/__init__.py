"""Measuring: one process per setting, which prepares its cases, waits for its turn and times."""
