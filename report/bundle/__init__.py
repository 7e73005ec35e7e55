"""The page of a bundle: what it is, how good it is, what it costs and what it cannot promise."""
