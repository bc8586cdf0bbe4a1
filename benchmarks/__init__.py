"""What dingbridge costs, beside peers that do the same work: `python -m benchmarks [ROW …]`."""
