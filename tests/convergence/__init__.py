"""Whether every table ends equal to DingTalk: two workers, a copy beside them, and all that can go wrong between them.

The real code on a real Redis and a real datastore, stepped by hand; DingTalk and time are a test's own.
"""
