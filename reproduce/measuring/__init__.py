"""Measuring: a process for each setting, which prepares, waits and times."""
