"""`make chaos`: a real installation under load, one fault after another, and whether anything acknowledged was lost."""
