"""A look into trained networks: what they make of the pixels of a split, drawn as pictures."""
