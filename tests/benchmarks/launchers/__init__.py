"""Exports, counted: over every cell of a matrix by data, and over random plans by the frameworks' own parsers."""
