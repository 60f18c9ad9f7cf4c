"""What one iteration of training costs: time by part, and memory by part of every stage."""
