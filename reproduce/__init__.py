"""Measures the time and memory of Hessian-vector products; never draws."""
