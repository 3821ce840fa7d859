"""Gradient norm by token type and by group of types, and gradient directions."""
