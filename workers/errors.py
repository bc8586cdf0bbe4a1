"""What can go wrong past the queue, as a tree, and the one table of DingTalk's error codes.

The docstring is the message; Misconfigured is for the deployer, the others for the code that called.
"""

from typing import ClassVar

from bridge.errors import BridgeError, ConfigError

#: Seconds; the penalty for more calls a second than allowed ends one second later (codes 90018, 90002).
QPS_WAIT = 1.0
#: Seconds; bans whose length DingTalk does not document. Asking earlier may prolong them.
BAN_WAIT = 10.0
#: Seconds; a limit per minute has room again at the latest then.
QPM_WAIT = 60.0
#: Seconds until it is tried whether a spent quota was raised.
QUOTA_WAIT = 600.0
#: Seconds; how long DingTalk blocks an address that made too many calls, for all APIs (KB-A/0012).
ADDRESS_WAIT = 300.0


class ApiError(BridgeError):
    """DingTalk did not do what was asked"""

    #: Whether asking again, unchanged, is useless.
    permanent: ClassVar[bool] = True

    def __init__(self, code: str, message: str = "", call: str = "") -> None:
        """`code` and `message` as DingTalk gave them, without secrets and personal data; `call` is the API's path."""
        said = f"{code} {message}".rstrip()
        super().__init__(f"{call}: {self.__doc__} ({said})")
        self.code = code
        self.message = message
        self.call = call


class Gone(ApiError):
    """there is no such user, department, role or organisation; code 70001 is the organisation"""


class Hidden(ApiError):
    """this app may not see it: it is outside the app's contact scope"""


class Throttled(ApiError):
    """too many calls; ask again after the wait"""

    permanent = False

    def __init__(self, code: str, message: str = "", call: str = "", wait: float = QPS_WAIT) -> None:
        """`wait`: seconds until asking again makes sense. Such a wait is not an attempt."""
        super().__init__(code, message, call)
        self.wait = wait

    @property
    def of_organisation(self) -> bool:
        """Whether it is one organisation that has used up its own; it says nothing of an app's others."""
        return isinstance(self, QuotaSpent) or "Org" in self.code


class AddressBanned(Throttled):
    """DingTalk blocks this address for all APIs; ask again after the wait"""


class QuotaSpent(Throttled):
    """the organisation's monthly API quota is spent; it has to buy more or wait for the next month"""


class Transient(ApiError):
    """DingTalk could not answer now; ask again"""

    permanent = False


class Misconfigured(ApiError):
    """DingTalk refuses this app as it is set up"""

    def __init__(self, code: str, message: str = "", call: str = "") -> None:
        """Adds to DingTalk's words what has to be mended."""
        mend = _MENDS.get(code, _MEND)
        super().__init__(code, f"{message}; {mend}" if message else mend, call)


class TicketStale(ApiError):
    """DingTalk does not take the suite_ticket: a newer one is on its way, the developer console pushes it again"""

    permanent = False


class NotAuthorized(ApiError):
    """the corp has not authorised this suite, or not any more"""

    #: Its withdrawal may still wait on a queue, or its new authorisation.
    permanent = False


class BadRequest(ApiError):
    """DingTalk does not take this request; a fault of this program"""


class TokenExpired(ApiError):
    """the access token is not valid any more"""

    permanent = False


#: What to do about a set-up that DingTalk refuses.
_MEND = "check app_key, app_secret, permissions and IP whitelist of this app in the developer console"
_MENDS = {
    "40088": "check suite_key and suite_secret of this app",
    "40089": "check app_key and app_secret of this app",
    "invalidClientIdOrSecret": "check app_key and app_secret of this app",
    "41001": "the access token is missing: does a proxy strip the query?",
    "43007": "authorise the app for this organisation",
    "60011": "give the app this API permission in the developer console",
    "60020": "add this host's address to the app's IP whitelist in the developer console",
    "71006": "a callback is registered already",
    "71007": "no callback is registered",
    "71009": "what answers at this address does not say success: is it our receiver, with the same keys?",
    "71010": "the token has 6 to 63 characters there, the aes_key 43",
    "71011": "the address is none: write https://your.host/callback/NAME",
    "71012": "DingTalk cannot reach the address: no redirect, no log-in, a complete certificate, an answer in 1.5 s",
    "71013": "the host of the address must be public",
    "853001": "set the clock of this host",
    "853002": "set the clock of this host, it is off by more than a minute",
    "853003": "check suite_key of this app",
    "853004": "check suite_secret of this app",
    "not-the-api": "check dingtalk.api, it is not the address of DingTalk's API",
}
_GONE = frozenset({"60121", "33012", "60003", "33011", "70001"})
HIDDEN_CODES = frozenset({"50002", "50004"})
#: Of the ticket; of a temporary authorisation code that was used before, and a permanent code that is none.
_TICKET = frozenset({"853005", "40085"})
CODE_USED = "40078"
#: There is no callback that was registered by API.
NOT_REGISTERED = "71007"
_BAD_REQUEST = frozenset({"400002", "40035", "40036", "40068", "40069", CODE_USED, "40084", "52019"})
_TOKEN = frozenset({"40014", "42001", "40001", "40082", "33001", "InvalidAuthentication"})
_QPS = frozenset({"90018", "90002"})
#: Of these 90001 is for this address and all APIs, the others for one app, corp or API.
_BANS = frozenset({*(str(code) for code in range(90003, 90015)), "90017"})


def from_code(code: str, message: str, call: str) -> ApiError:
    """The error that an answer's code means (api.md §7). A code that nobody documents is Transient: worth asking again.

    The v1.0 codes for limits come in many forms (QpsLimitForApi, QpsLimitForAppkeyAndApi, …), so a part decides.
    """
    if code in _QPS or "QpsLimit" in code:
        return Throttled(code, message, call, QPS_WAIT)
    if code in _BANS:
        return Throttled(code, message, call, BAN_WAIT)
    if "QpmLimit" in code:
        return Throttled(code, message, call, QPM_WAIT)
    if code == "90001":
        return AddressBanned(code, message, call, BAN_WAIT)
    if code == "90020" or "ApiCountLimit" in code:
        return QuotaSpent(code, message, call, QUOTA_WAIT)
    return _kind(code)(code, message, call)


def _kind(code: str) -> type[ApiError]:
    if code in _GONE:
        return Gone
    if code in HIDDEN_CODES:
        return Hidden
    if code in _TOKEN:
        return TokenExpired
    if code in _TICKET:
        return TicketStale
    if code in _BAD_REQUEST:
        return BadRequest
    if code in _MENDS or code.startswith("Forbidden."):
        return Misconfigured
    return Transient


class SealBroken(BridgeError):
    """a permanent code cannot be opened: encryption_key is not the one that it was sealed with"""


class DatastoreUnusable(BridgeError):
    """datastore.url is no URL: it reads postgresql+psycopg://user:password@host:5432/database, with a @ as %40"""


class DatastoreOutdated(BridgeError):
    """the datastore's tables are missing or of another version: run `dingbridge migrate`"""


class DatastoreForeign(BridgeError):
    """the datastore's tables are not of a version that this program knows: run the one that made them, or a newer"""


class JobsModuleMissing(ConfigError):
    """a module of `jobs:` in config.yaml cannot be imported"""


class UnknownJob(BridgeError):
    """the job is none that this worker may run"""


class NotForgettable(BridgeError):
    """a person who has not left cannot be forgotten"""
