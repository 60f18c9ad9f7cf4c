"""A document → the files that a platform reads. ``targets`` has one file a platform; each says which kinds of documents
it takes, and is found without being listed."""
