"""A worker's claims on waiting jobs: many taken at once from all queues, under a lease, and told finished at once.

A claimed id lies in a list of its worker's own until the job is finished, put off, failed or given back, so a
worker that dies holds its jobs no longer than its lease. Redis keys:

  rq:queue:<name>          list: ids of waiting jobs
  rq:job:<id>              hash: the job, as RQ saves it, with our stamp and life; `suspect` when a worker died that
                           held it, `lone_deaths` counts those that held nothing else
  rq:wip:<name>            zset: `<id>:<worker>` of claimed jobs; +inf keeps them out of stock maintenance's reach
  rq:scheduled:<name>      zset: ids that wait for their next attempt, by its Unix time
  rq:finished|failed:<name>  zset: ids by the Unix time at which they are forgotten
  rq:worker:<worker>       hash: the worker, as RQ registers it
  bridge:claimed:<worker>  list: the ids this worker holds
  bridge:lease:<worker>    string with expiry: the worker lives
  bridge:claimers          set: workers that may hold claims
  bridge:missing           hash: worker → Unix time at which its lease was first seen missing
  bridge:wake:<name>       list: see accept.py
  bridge:lane:<name>:<corp>, bridge:lanes:<name>  lists: whose turn it is, see queues.py
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import redis

from bridge.accept import WAKE_PREFIX
from bridge.queues import ENTER_LANE, RESULT_TTL, iso_now

#: Seconds that a lease lasts without renewal, and between two renewals.
LEASE_SECONDS = 12.0
RENEW_SECONDS = 3.0
#: Seconds that a lease must be seen missing: when Redis comes back, workers that live renew theirs first.
MISSING_SECONDS = 5
#: Workers that a job must have ended, each while it was taken up alone, to be given up.
MAX_LONE_DEATHS = 5
#: A share of a claim that is no limit.
UNSHARED = 1 << 30
#: Set of the workers that may hold claims.
CLAIMERS_KEY = "bridge:claimers"
#: Hash of workers whose lease was seen missing.
MISSING_KEY = "bridge:missing"

_CLAIM = (
    ENTER_LANE
    + """
local claimed, lease, claimers, wake, worker_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, limit, lease_ms, iso, suspects = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5] == '1'
local share = tonumber(ARGV[6])
redis.call('SET', lease, '1', 'PX', lease_ms)
redis.call('SADD', claimers, worker)
local now = tonumber(redis.call('TIME')[1])
local names, soonest = {}, ''
for i = 7, #ARGV do
  local name = ARGV[i]
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'rq:scheduled:' .. name, '-inf', now, 'LIMIT', 0, limit)) do
    redis.call('ZREM', 'rq:scheduled:' .. name, id)
    redis.call('HSET', 'rq:job:' .. id, 'status', 'queued')
    redis.call('RPUSH', 'rq:queue:' .. name, id)
    enter_lane('RPUSH', name, redis.call('HGET', 'rq:job:' .. id, 'corp') or '', id)
  end
  names[#names + 1] = name
end
if suspects then
  -- Every other claim looks for a suspect first: one waits for a claim that holds nothing else.
  for _, name in ipairs(names) do
    local id = redis.call('LINDEX', 'rq:queue:' .. name, 0)
    if id and redis.call('HEXISTS', 'rq:job:' .. id, 'suspect') == 1 then
      names = {name}
      break
    end
  end
end
local function leave_lane(name, id)
  local corp = redis.call('HGET', 'rq:job:' .. id, 'corp') or ''
  if redis.call('LREM', lane_of(name, corp), 1, id) == 1 and redis.call('EXISTS', lane_of(name, corp)) == 0 then
    redis.call('LREM', 'bridge:lanes:' .. name, 1, corp)
  end
end
-- Out of the middle of a queue, from the end that it is nearer to by its stamp; whether it was there.
local function take_out(queue, id, head)
  if id == head then return redis.call('LPOP', queue) end
  local function stamp(of) return tonumber(redis.call('HGET', 'rq:job:' .. of, 'stamp') or 0) end
  local nearer_head = stamp(id) - stamp(head) < stamp(redis.call('LINDEX', queue, -1)) - stamp(id)
  return redis.call('LREM', queue, nearer_head and 1 or -1, id) == 1
end
-- The first of a claim is the queue's head, then it is each corp's turn. A head that stands in no lane goes before:
-- one that was given back, or requeued by hand. No corp has more than its share of a claim.
local STALE = 1000  -- ids in lanes that wait no more, of which a claim clears so many
local begun, taken = {}, {}
local function take(name)
  local queue, lanes = 'rq:queue:' .. name, 'bridge:lanes:' .. name
  local head = redis.call('LINDEX', queue, 0)
  if not head then
    -- Somebody may have emptied it by hand.
    for _, corp in ipairs(redis.call('LRANGE', lanes, 0, -1)) do redis.call('DEL', lane_of(name, corp)) end
    redis.call('DEL', lanes)
    return nil
  end
  local corp = redis.call('HGET', 'rq:job:' .. head, 'corp') or ''
  local in_lane = redis.call('LINDEX', lane_of(name, corp), 0) == head
  if in_lane and (begun[name] or (taken[corp] or 0) >= share) then
    local full, stale = 0, 0
    while stale < STALE and full < redis.call('LLEN', lanes) do
      corp = redis.call('LPOP', lanes)
      local lane = lane_of(name, corp)
      if (taken[corp] or 0) < share then
        local id = redis.call('LPOP', lane)
        if redis.call('EXISTS', lane) == 1 then redis.call('RPUSH', lanes, corp) end
        if id and redis.call('HGET', 'rq:job:' .. id, 'status') == 'queued' and take_out(queue, id, head) then
          taken[corp] = (taken[corp] or 0) + 1
          return id
        end
        stale = stale + 1
      else
        redis.call('RPUSH', lanes, corp)
        full = full + 1
      end
    end
    return nil
  end
  begun[name] = true
  taken[corp] = (taken[corp] or 0) + 1
  redis.call('LPOP', queue)
  leave_lane(name, head)
  return head
end
local jobs, count = {}, 0
while #names > 0 and count < limit do
  local waiting = {}
  for _, name in ipairs(names) do
    local id = count < limit and take(name)
    local key = id and 'rq:job:' .. id
    local job = id and redis.call('HMGET', key, 'data', 'stamp', 'life', 'number_of_retries', 'lone_deaths', 'suspect')
    if id and job[6] and count > 0 then
      -- It is taken up alone, by a claim that begins with its queue.
      redis.call('LPUSH', 'rq:queue:' .. name, id)
    elseif id then
      waiting[#waiting + 1] = name
      if job[1] then
        count = count + 1
        if job[6] then limit = 1 end
        redis.call('RPUSH', claimed, id)
        redis.call('HSET', key, 'status', 'started', 'worker_name', worker, 'started_at', iso, 'last_heartbeat', iso)
        redis.call('ZADD', 'rq:wip:' .. name, '+inf', id .. ':' .. worker)
        jobs[#jobs + 1] = {id, name, job[1], job[2] or '0', job[3] or '', job[4] or '0', job[5] or '0'}
      end
    end
  end
  names = waiting
end
if count == 0 then
  for i = 7, #ARGV do
    redis.call('DEL', wake .. ARGV[i])
    local first = redis.call('ZRANGE', 'rq:scheduled:' .. ARGV[i], 0, 0, 'WITHSCORES')[2]
    if first and (soonest == '' or tonumber(first) < tonumber(soonest)) then soonest = first end
  end
end
redis.call('HSET', worker_key, 'state', count == 0 and 'idle' or 'busy')
return {jobs, soonest, now}
"""
)

_FINISH = """
local claimed, worker_key = KEYS[1], KEYS[2]
local worker, iso, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = tonumber(redis.call('TIME')[1])
for i = 4, #ARGV, 2 do
  local id, name = ARGV[i], ARGV[i + 1]
  if redis.call('LREM', claimed, 1, id) == 1 then
    local key = 'rq:job:' .. id
    redis.call('ZREM', 'rq:wip:' .. name, id .. ':' .. worker)
    redis.call('ZREM', 'rq:failed:' .. name, id)
    redis.call('ZREM', 'rq:scheduled:' .. name, id)
    redis.call('HSET', key, 'status', 'finished', 'ended_at', iso)
    redis.call('HDEL', key, 'suspect', 'lone_deaths')
    redis.call('EXPIRE', key, ttl)
    redis.call('ZREMRANGEBYSCORE', 'rq:finished:' .. name, '-inf', now)
    redis.call('ZADD', 'rq:finished:' .. name, now + ttl, id)
    redis.call('HINCRBY', worker_key, 'successful_job_count', 1)
  end
end
"""

_PUT_OFF = """
local claimed = KEYS[1]
local worker, id, name, seconds, attempts = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
if redis.call('LREM', claimed, 1, id) == 1 then
  local due = tonumber(redis.call('TIME')[1]) + math.ceil(seconds)
  redis.call('ZREM', 'rq:wip:' .. name, id .. ':' .. worker)
  redis.call('HSET', 'rq:job:' .. id, 'status', 'scheduled', 'number_of_retries', attempts)
  redis.call('ZADD', 'rq:scheduled:' .. name, due, id)
end
"""

_GIVE_BACK = """
local wake = KEYS[1]
local function give_back_one(worker, id)
  local key = 'rq:job:' .. id
  local name = redis.call('HGET', key, 'origin')
  if not name then return 0 end
  redis.call('ZREM', 'rq:wip:' .. name, id .. ':' .. worker)
  redis.call('HSET', key, 'status', 'queued')
  redis.call('LPUSH', 'rq:queue:' .. name, id)
  redis.call('LPUSH', wake .. name, '1')
  return 1
end
local function give_back(worker)
  local claimed, given = 'bridge:claimed:' .. worker, 0
  while true do
    local id = redis.call('RPOP', claimed)
    if not id then return given end
    given = given + give_back_one(worker, id)
  end
end
"""

_GIVE_BACK_OWN = f"""{_GIVE_BACK}
return give_back(ARGV[1])
"""

_HAND_BACK = f"""{_GIVE_BACK}
if redis.call('LREM', KEYS[2], -1, ARGV[2]) == 1 then give_back_one(ARGV[1], ARGV[2]) end
"""

_SWEEP = f"""{_GIVE_BACK}
local claimers, missing, patience = KEYS[2], KEYS[3], tonumber(ARGV[1])
local now, given = tonumber(redis.call('TIME')[1]), 0
for _, worker in ipairs(redis.call('SMEMBERS', claimers)) do
  if redis.call('EXISTS', 'bridge:lease:' .. worker) == 1 then
    redis.call('HDEL', missing, worker)
  else
    redis.call('HSETNX', missing, worker, now)
    if now - tonumber(redis.call('HGET', missing, worker)) >= patience then
      local held = redis.call('LRANGE', 'bridge:claimed:' .. worker, 0, -1)
      for _, id in ipairs(held) do
        local key = 'rq:job:' .. id
        if redis.call('EXISTS', key) == 1 then
          redis.call('HSET', key, 'suspect', '1')
          if #held == 1 then redis.call('HINCRBY', key, 'lone_deaths', 1) end
        end
      end
      given = given + give_back(worker)
      redis.call('SREM', claimers, worker)
      redis.call('HDEL', missing, worker)
    end
  end
end
return given
"""


class Claim(NamedTuple):
    """A claimed job as it lies in Redis."""

    job_id: str
    queue: str
    data: bytes
    stamp: int
    life: str
    attempts: int
    lone_deaths: int

    def plain(self) -> bytes:
        """The job's JSON; RQ compresses what it saves, as on a requeue. Raises ValueError."""
        try:
            return self.data if self.data.startswith(b"[") else zlib.decompress(self.data)
        except zlib.error as error:
            raise ValueError(f"neither JSON nor compressed: {error}") from None


class Claims:
    """One worker's claims. Every method raises RedisError."""

    def __init__(self, connection: redis.Redis, worker: str, queues: Sequence[str], share: int = UNSHARED) -> None:
        """`queues` are emptied round robin, each corp by corp; the first of them goes first in every round.

        `share`: how many jobs of one corp a claim takes at most.
        """
        self._share = share
        self._connection = connection
        self._worker = worker
        self._queues = list(queues)
        self._suspects = False
        self._claimed = f"bridge:claimed:{worker}"
        self._lease = f"bridge:lease:{worker}"
        self._worker_key = f"rq:worker:{worker}"
        self._claim_script = connection.register_script(_CLAIM)
        self._finish_script = connection.register_script(_FINISH)
        self._put_off_script = connection.register_script(_PUT_OFF)
        self._give_back_script = connection.register_script(_GIVE_BACK_OWN)
        self._hand_back_script = connection.register_script(_HAND_BACK)
        self._sweep_script = connection.register_script(_SWEEP)

    def claim(self, limit: int) -> tuple[list[Claim], float | None]:
        """Up to `limit` jobs; where there are none, the seconds until one that was put off comes due."""
        keys = [self._claimed, self._lease, CLAIMERS_KEY, WAKE_PREFIX, self._worker_key]
        self._suspects = not self._suspects
        terms: list[str | int] = [self._worker, limit, round(LEASE_SECONDS * 1000), iso_now(), int(self._suspects)]
        terms.append(self._share)
        found, soonest, now = self._claim_script(keys=keys, args=[*terms, *self._queues])
        # The second queue of this round is the first of the next, so that a short batch does not favour it.
        self._queues[1:] = [*self._queues[2:], *self._queues[1:2]]
        jobs = [
            Claim(job_id.decode(), queue.decode(), data, int(stamp), life.decode(), int(attempts), int(deaths))
            for job_id, queue, data, stamp, life, attempts, deaths in found
        ]
        return jobs, max(0.0, float(soonest) - now) if soonest else None

    def wait(self, seconds: float) -> None:
        """Sleep until an event is accepted, at most that long."""
        self._connection.blpop([WAKE_PREFIX + name for name in self._queues], timeout=max(seconds, 0.01))

    def finish(self, claims: Sequence[Claim]) -> None:
        """These are done; a claim that was swept meanwhile is its next owner's affair."""
        pairs = [part for claim in claims for part in (claim.job_id, claim.queue)]
        if pairs:
            arguments: list[str | int] = [self._worker, iso_now(), RESULT_TTL, *pairs]
            self._finish_script(keys=[self._claimed, self._worker_key], args=arguments)

    def put_off(self, claim: Claim, seconds: float, attempts: int) -> None:
        """Try this one again after so many seconds; `attempts` counts those that failed."""
        self._put_off_script(keys=[self._claimed], args=[self._worker, claim.job_id, claim.queue, seconds, attempts])

    def drop(self, claim: Claim, pipeline: "redis.client.Pipeline") -> None:
        """Let go of this one in a transaction that says elsewhere what becomes of it."""
        pipeline.lrem(self._claimed, 1, claim.job_id)
        pipeline.zrem(f"rq:wip:{claim.queue}", f"{claim.job_id}:{self._worker}")

    def give_back(self) -> int:
        """Everything this worker still holds goes back to its queues; how many."""
        return int(self._give_back_script(keys=[WAKE_PREFIX], args=[self._worker]))

    def hand_back(self, claim: Claim) -> None:
        """This one goes back to the front of its queue."""
        self._hand_back_script(keys=[WAKE_PREFIX, self._claimed], args=[self._worker, claim.job_id])

    def renew(self) -> None:
        """Keep the lease."""
        self._connection.set(self._lease, "1", px=round(LEASE_SECONDS * 1000))

    def release(self) -> None:
        """End the lease: this worker holds nothing any more."""
        self._connection.delete(self._lease)
        self._connection.srem(CLAIMERS_KEY, self._worker)

    def sweep(self) -> int:
        """What workers hold whose lease is gone goes back to its queues; how many jobs."""
        return int(self._sweep_script(keys=[WAKE_PREFIX, CLAIMERS_KEY, MISSING_KEY], args=[MISSING_SECONDS]))
