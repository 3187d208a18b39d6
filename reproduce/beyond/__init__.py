"""Measurements beyond the article: HVPs at work in algorithms, and advice on which HVP to use."""
