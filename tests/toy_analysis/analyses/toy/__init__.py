"""Which token types have the largest mean loss: the least that an analysis is."""
