"""What engines of one framework are told: a module each, found without being listed."""
