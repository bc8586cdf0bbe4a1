"""What can go wrong between the wire and the queue, as a tree. The docstring is the message."""


class BridgeError(Exception):
    """something went wrong"""

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.__doc__)


class ConfigError(BridgeError):
    """the configuration has faults; the deployer mends them"""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Refused(BridgeError):
    """not a callback of ours; the sender gets `status` and this line"""

    status = 400


class MalformedCallback(Refused):
    """not a DingTalk callback"""


class Undecipherable(MalformedCallback):
    """the message cannot be deciphered: is the aes_key the one of this app?"""


class SignatureMismatch(Refused):
    """the signature does not match: is the token the one of this app?"""

    status = 403


class OwnerMismatch(Refused):
    """the owner key of the message is none of this app's owner_keys"""

    status = 403


class UnknownApp(Refused):
    """no app of this name"""

    status = 404


class TooLarge(Refused):
    """request entity too large"""

    status = 413


class NotDurable(BridgeError):
    """no place could take the event; the sender must try again"""


class RedisUnusable(BridgeError):
    """the Redis server cannot be used"""
