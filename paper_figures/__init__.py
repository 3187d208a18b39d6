"""Draws the article's figures from recorded rows; never measures."""
