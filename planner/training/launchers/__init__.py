"""A training layout → what its framework is started with."""
