"""What dingbridge is measured against: the same work as others' documentation says to do it."""
