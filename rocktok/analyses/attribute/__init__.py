"""Who takes the gradient: its norm by token and by group, and its directions."""
