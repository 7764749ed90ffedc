-- push: makes tasks known as ready (submit, promote, update, redrive, drain, verify).
-- KEYS  1 {prefix/queue}:g
-- ARGV  1 now (µs, '' = server)  2 generation it is meant for ('' = any)  3 patience of waiters (µs)
--       4 channel of workers  5 queue  6 number of groups
--       then for each group: fair key, its bands (digits, e.g. '02'), count, (score, id) * count
-- Promise  Nothing without a generation, or with another one. Always writes ready, reserved or not; an id that is
--          there gets the new score. Doing it again changes nothing. Rings as many waiters as ids were added.
-- Returns  {generation or false, ids that were not in ready before}
-- Codes    error 'ERR taskmill: …' for arguments that do not fit, before anything is written
--- @include "layout"
--- @include "clock"
--- @include "activate"
--- @include "wake"

local now, patience, groups = now_of(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[6])
if not now or not patience or not groups then
  return redis.error_reply('ERR taskmill: push: numbers')
end
local at = 7
for _ = 1, groups do
  local count = tonumber(ARGV[at + 2])
  if not count or not string.find(ARGV[at + 1], '^[0-3]+$') then
    return redis.error_reply('ERR taskmill: push: group')
  end
  for k = at + 3, at + 1 + 2 * count, 2 do
    if not tonumber(ARGV[k]) or #(ARGV[k + 1] or '') ~= ID_BYTES then
      return redis.error_reply('ERR taskmill: push: entry')
    end
  end
  at = at + 3 + 2 * count
end
if at ~= #ARGV + 1 then
  return redis.error_reply('ERR taskmill: push: length')
end

local state = redis.call('HMGET', G, 'gen', 'paused')
local generation = state[1]
if not generation or (ARGV[2] ~= '' and ARGV[2] ~= generation) then
  return { generation, 0 }
end

-- ZADD comes first: out of memory, it is refused before anything has changed.
local added = 0
at = 7
for _ = 1, groups do
  local fair, count = ARGV[at], tonumber(ARGV[at + 2])
  if count > 0 then
    added = added + redis.call('ZADD', P .. 'r' .. fair, unpack(ARGV, at + 3, at + 2 + 2 * count))
    for digit in string.gmatch(ARGV[at + 1], '%d') do
      activate(digit, fair)
    end
  end
  at = at + 3 + 2 * count
end
if not state[2] then
  wake(added, now, patience, ARGV[4], ARGV[5])
end
return { generation, added }
