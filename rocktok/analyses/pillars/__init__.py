"""Which tokens carry the accuracy: arms without them against the student as it is."""
