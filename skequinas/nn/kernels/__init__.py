"""Compiled kernels, which an installation without a compiler does without, and what calls them."""
