"""Expert placement: which expert, and which copies of it, live on which GPU of an expert-parallel group."""
