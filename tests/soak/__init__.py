"""`make soak`: a whole installation under traffic, faults and kills for as long as is asked; then all must be equal."""
