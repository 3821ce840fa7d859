"""Runs models again over text that was kept."""
