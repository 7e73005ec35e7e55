"""Which pictures of a data set to look at again: labels that may be wrong, pictures kept twice."""
