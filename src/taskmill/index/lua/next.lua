-- next: one turn of a worker: settles what it reserved before, and reserves up to n ready tasks.
-- KEYS  1 {prefix/queue}:g
-- ARGV  1 now (µs, '' = server)  2 hold (µs)  3 n  4 token (16 bytes)  5 worker ('' = none)  6 wait (0, 1)
--       7 patience of waiters (µs)  8 channel of workers  9 queue
--       10 confirms  11 drops  12 give-backs  13 that many id .. token (32 bytes each), in this order
-- Promise  Touches only reservations with the given token. Run-out reservations return to ready first. Bands are
--          strict, fair keys are served by virtual time inside a band, ids by time inside a fair key. A worker that
--          waits and found nothing is remembered in the same step, so no push falls between. When ready work is
--          left, one more waiter is rung: a worker that was woken and is busy passes the wake on.
-- Returns  {generation or false, fill, paused, more (ready work is left), id, fair key, id, fair key, …}
-- Codes    error 'ERR taskmill: …' for arguments that do not fit, before anything is written
--- @include "layout"
--- @include "clock"
--- @include "activate"
--- @include "reservation"
--- @include "serve"
--- @include "wake"

local now, hold, n, patience = now_of(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[7])
local confirms, drops, backs = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
if not (now and hold and n and patience and confirms and drops and backs) or #ARGV[4] ~= TOKEN_BYTES
    or #ARGV ~= 13 or #ARGV[13] ~= (ID_BYTES + TOKEN_BYTES) * (confirms + drops + backs) then
  return redis.error_reply('ERR taskmill: next: arguments')
end
local token, worker = ARGV[4], ARGV[5]

local state = redis.call('HMGET', G, 'gen', 'fill', 'paused')
if not state[1] then
  return { false, 0, 0, 0 }
end
local paused = state[3] and 1 or 0

-- The first write needs no memory, and after it none is refused: a full server can still be drained.
redis.call('ZREM', I, worker)

-- A confirm and a drop both end the reservation; they will differ once slots of limited keys are held.
local ended = confirms + drops
forget((owned(ARGV[13], 1, ended)))
put_back(owned(ARGV[13], ended + 1, ended + backs))
return_run_out(now)

local found, seen, left = {}, {}, n
if paused == 0 then
  for band = 0, 3 do
    if left <= 0 then break end
    left = left - serve(band, left, found, seen)
  end
  hold_all(found, token, now + hold)
end

local more = redis.call('EXISTS', P .. 'a0', P .. 'a1', P .. 'a2', P .. 'a3') > 0 and paused == 0
if more then
  wake(1, now, patience, ARGV[8], ARGV[9])
elseif ARGV[6] == '1' and #found == 0 then
  redis.call('ZADD', I, number(now), worker)
end

local reply = { state[1], state[2] and 1 or 0, paused, more and 1 or 0 }
for k = 1, #found, 3 do
  reply[#reply + 1] = found[k]
  reply[#reply + 1] = found[k + 1]
end
return reply
