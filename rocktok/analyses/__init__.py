"""One folder a question. This file is the only list of them."""
