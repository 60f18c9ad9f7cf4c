"""Training layouts: named ones predicted, and the best one found."""
