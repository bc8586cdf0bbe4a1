"""A third-party app's whole life on a real installation."""
