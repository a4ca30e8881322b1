"""Exponents chosen without the program: from equations and intervals, along streams, and what is left open."""
