-- take: the pass over dead entries reserves tasks of one fair key, from a place in its line on, whatever their band.
-- KEYS  1 {prefix/queue}:g
-- ARGV  1 now (µs, '' = server)  2 hold (µs)  3 n  4 token (16 bytes)  5 fair key  6 place of the first (0 = head)
-- Promise  As next: what it returns is reserved under the token, and comes back by give-back or by expiry. Spends
--          no virtual time.
-- Returns  as next
-- Codes    error 'ERR taskmill: …' for arguments that do not fit, before anything is written
--- @include "layout"
--- @include "clock"
--- @include "activate"
--- @include "reservation"

local now, hold, n, place = now_of(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[6])
if not (now and hold and n and place) or #ARGV ~= 6 or #ARGV[4] ~= TOKEN_BYTES then
  return redis.error_reply('ERR taskmill: take: arguments')
end
local fair = ARGV[5]

local state = redis.call('HMGET', G, 'gen', 'fill', 'paused')
if not state[1] then
  return { false, 0, 0, 0 }
end
local reply = { state[1], state[2] and 1 or 0, state[3] and 1 or 0, 0 }
if n <= 0 then
  return reply
end

local ready = P .. 'r' .. fair
local line = redis.call('ZRANGE', ready, place, place + n - 1, 'WITHSCORES')
local found, taken = {}, {}
for k = 1, #line, 2 do
  taken[#taken + 1] = line[k]
  if #line[k] == ID_BYTES then
    found[#found + 1] = line[k]
    found[#found + 1] = fair
    found[#found + 1] = line[k + 1]
    reply[#reply + 1] = line[k]
    reply[#reply + 1] = fair
  end
end
if #taken > 0 then
  redis.call('ZREM', ready, unpack(taken))
  hold_all(found, ARGV[4], now + hold)
end
for band = 0, 3 do
  local at = redis.call('ZSCORE', P .. 'a' .. band, fair)
  if at and redis.call('ZCOUNT', ready, FROM[band], TO[band]) == 0 then
    retire(band, { fair }, { stored(at) }, stored(redis.call('HGET', G, 'v' .. band)))
  end
end
return reply
