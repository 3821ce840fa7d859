"""Which tokens are rocks: persistent loss in recurring contexts."""
