"""A DingTalk that runs offline: organisations, API, callbacks and faults."""
