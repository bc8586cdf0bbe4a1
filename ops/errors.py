"""What can go wrong in the operator's room."""

from urllib.parse import urlsplit

from bridge.errors import BridgeError


class NoAnswer(BridgeError):
    """nobody answers there"""

    def __init__(self, url: str, error: Exception) -> None:
        """Of the URL only scheme, host and port are told: the rest may hold secrets."""
        parts = urlsplit(url)
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(error).__name__
        super().__init__(
            f"no answer from {parts.scheme}://{parts.netloc.rpartition('@')[2]}: {reason}; "
            "start it, or name another address with --url"
        )
