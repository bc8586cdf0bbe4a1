"""One row of the table each: what is measured, against what, and what it should come to."""
