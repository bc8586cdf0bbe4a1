"""Log-in attempts, counted in Redis before a password is looked at, so that many at once gain nothing."""

import hashlib
import ipaddress

import redis

#: Attempts after which one has to wait; people mistype.
FREE_ATTEMPTS = 5
#: Seconds of the first wait, doubled with each further attempt up to the second.
WAIT_SECONDS = (5, 300)
#: Seconds without an attempt after which all is forgotten.
FORGET_SECONDS = 3600

_ATTEMPT = """
-- bridge:console:attempts:<who>  string with expiry: how many attempts were made
-- bridge:console:wait:<who>      string with expiry: no attempt is looked at meanwhile
local free, first, most, forget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local longest = 0
for i = 2, #KEYS, 2 do longest = math.max(longest, redis.call('PTTL', KEYS[i])) end
if longest > 0 then return math.ceil(longest / 1000) end
for i = 1, #KEYS, 2 do
  local made = redis.call('INCR', KEYS[i])
  redis.call('EXPIRE', KEYS[i], forget)
  if made >= free then
    redis.call('SET', KEYS[i + 1], '1', 'EX', math.min(most, first * 2 ^ math.min(made - free, 20)))
  end
end
return 0
"""


class Throttle:
    """Shared by all processes; both a name and an address have to wait. Raises RedisError."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._attempt = connection.register_script(_ATTEMPT)

    def attempt(self, name: str, address: str) -> int:
        """0 where this attempt may be looked at, and it is counted; else the seconds to wait."""
        return int(self._attempt(keys=_keys(name, address), args=[FREE_ATTEMPTS, *WAIT_SECONDS, FORGET_SECONDS]))

    def succeeded(self, name: str, address: str) -> None:
        """Forget the attempts of both."""
        self._connection.delete(*_keys(name, address))


def _keys(name: str, address: str) -> list[str]:
    """Digests, as a stranger may send a name of any length, or a password in its place."""
    whos = [f"{kind}:{hashlib.sha256(who.encode()).hexdigest()[:32]}" for kind, who in _whos(name, address)]
    return [f"bridge:console:{what}:{who}" for who in whos for what in ("attempts", "wait")]


def _whos(name: str, address: str) -> list[tuple[str, str]]:
    return [("name", name), ("address", _network(address))]


def _network(address: str) -> str:
    """Of IPv6 the /64 that one household or host is given, unless it stands for an IPv4 address; else the address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
