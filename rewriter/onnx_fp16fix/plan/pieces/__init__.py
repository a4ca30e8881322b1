"""The program of a region or a piece of it: variables, rows, kinds of pieces, and what an answer says."""
