"""Draws the article's figures and writes its tables from recorded rows; never measures."""
