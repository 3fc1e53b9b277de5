"""One file per gate: a pure function from evidence to a Decision."""
