"""Mixed-integer programs as arrays, whatever they stand for, and who solves them."""
