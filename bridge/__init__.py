"""From the wire to the queue."""
