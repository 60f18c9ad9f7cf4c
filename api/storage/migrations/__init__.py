"""How databases of every released schema become today's."""
