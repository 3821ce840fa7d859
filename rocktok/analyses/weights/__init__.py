"""Weights of tokens for training: of rocks, or of other types that carry as much of the loss."""
