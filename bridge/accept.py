"""Make events durable: drop repeats, stamp and enqueue, all in one atomic Redis call."""

from collections.abc import Sequence

import redis

from bridge import events, queues
from bridge.errors import NotDurable
from bridge.events import Event
from bridge.queues import ENTER_LANE, QUEUES_KEY, WAITING

#: Seconds in which a second event of the same id is a repeat; DingTalk's own retries end after 40 s,
#: its failed list follows minutes to hours later.
REPEAT_WINDOW = 86400
#: List for each queue; one entry wakes one worker that waits for this queue.
WAKE_PREFIX = "bridge:wake:"
#: Entries kept in a wake list; more would only wake workers that find nothing.
WAKE_LIMIT = 64
#: Hash: event type → how many were accepted, since this Redis began.
ACCEPTED_KEY = "bridge:accepted"
#: Hash: event type → Redis' microseconds at which the last one was accepted.
LAST_KEY = "bridge:last"

_ACCEPT = (
    ENTER_LANE
    + """
-- bridge:seen:<event id>  string: marks an accepted event for the repeat window
-- rq:job:<job id>         hash: the job as RQ saves it, and stamp (Redis' microseconds) and life (run_id)
-- rq:queue:<type>         list: ids of waiting jobs        rq:queues  set: the keys of all queues
-- bridge:lane:<type>:<corp>, bridge:lanes:<type>  lists: whose turn it is, see queues.py
-- rq:failed|finished|scheduled:<type>  zset: a job that is fed in anew leaves them
-- bridge:wake:<type>      list: see accept.py, as for bridge:accepted and bridge:last
local queues_key, wake, accepted, last = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local window, wake_limit, again, now = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4]
local time = redis.call('TIME')
local stamp = string.format('%.0f', time[1] * 1000000 + time[2])
local life = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local fresh, types, arrived = {}, {}, {}
-- Most of an event's cost is calls, so what comes together enters together; one takes some thousand values at most.
local function in_pieces(jobs, act)
  for at = 1, #jobs, 1000 do act(unpack(jobs, at, math.min(at + 999, #jobs))) end
end
for at = 5, #ARGV, 6 do
  local id, job, queue, corp, data, description = unpack(ARGV, at, at + 5)
  local job_key = 'rq:job:' .. job
  local status = redis.call('HGET', job_key, 'status')
  local waits = status == 'queued' or status == 'started' or status == 'scheduled'
  local marked = not redis.call('SET', 'bridge:seen:' .. id, stamp, 'NX', 'EX', window)
  if waits or (marked and not again) then
    fresh[#fresh + 1] = 0
  else
    if status then
      redis.call('DEL', job_key)
      redis.call('ZREM', 'rq:failed:' .. queue, job)
      redis.call('ZREM', 'rq:finished:' .. queue, job)
    end
    redis.call('HSET', job_key, 'stamp', stamp, 'life', life, 'created_at', now, 'enqueued_at', now, 'data', data,
      'description', description, 'origin', queue, 'corp', corp, {WAITING})
    local one = arrived[queue]
    if not one then
      one = {jobs = {}, wakes = {}, corps = {}, lanes = {}}
      arrived[queue] = one
      types[#types + 1] = queue
    end
    if not one.lanes[corp] then
      one.lanes[corp] = {}
      one.corps[#one.corps + 1] = corp
    end
    table.insert(one.jobs, job)
    table.insert(one.lanes[corp], job)
    if #one.wakes < wake_limit then table.insert(one.wakes, '1') end
    fresh[#fresh + 1] = 1
  end
end
for _, queue in ipairs(types) do
  local one = arrived[queue]
  redis.call('SADD', queues_key, 'rq:queue:' .. queue)
  in_pieces(one.jobs, function(...) redis.call('RPUSH', 'rq:queue:' .. queue, ...) end)
  for _, corp in ipairs(one.corps) do
    in_pieces(one.lanes[corp], function(...) enter_lane('RPUSH', queue, corp, ...) end)
  end
  redis.call('RPUSH', wake .. queue, unpack(one.wakes))
  redis.call('LTRIM', wake .. queue, 0, wake_limit - 1)
  redis.call('HINCRBY', accepted, queue, #one.jobs)
  redis.call('HSET', last, queue, stamp)
end
return fresh
""".replace("{WAITING}", ", ".join(f"'{name}', '{value}'" for name, value in WAITING.items()))
)


class Acceptor:
    """The one way in for every event, whether pushed, drained, pulled or replayed."""

    def __init__(self, connection: redis.Redis) -> None:
        self._pool = connection.connection_pool
        self._script = connection.register_script(_ACCEPT)

    def accept(self, batch: Sequence[Event], *, again: bool = False) -> list[bool]:
        """For each event whether it is new; False is a repeat, which needs nothing more.

        `again` feeds in what was accepted before (replay); an event that still waits is a repeat even
        then. Raises NotDurable when Redis did not take them: they may or may not be there.
        """
        arguments: list[str | bytes | int] = [REPEAT_WINDOW, WAKE_LIMIT, int(again), queues.iso_now()]
        for event in batch:
            arguments += [event.id, events.job_id(event.id), events.queue_of(event.type), event.corp_id or ""]
            arguments += [queues.encode(event), events.describe(event)]
        try:
            fresh = self._script(keys=[QUEUES_KEY, WAKE_PREFIX, ACCEPTED_KEY, LAST_KEY], args=arguments)
        except redis.RedisError as error:
            # As queues.connect wants it of a master that has become a replica: before Redis 7 the script's error only
            # quotes that it has.
            if "-READONLY" in str(error):
                self._pool.disconnect(inuse_connections=False)
            raise NotDurable(f"Redis did not take the event: {type(error).__name__}") from error
        return [bool(flag) for flag in fresh]
