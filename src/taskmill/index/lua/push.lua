-- push: makes tasks known as ready (submit, promote, update, redrive, drain, verify).
-- KEYS  1 {prefix/queue}:g
-- ARGV  1 now (µs, '' = server)  2 generation it is meant for ('' = any)  3 patience of waiters (µs)
--       4 channel of workers  5 queue  6 number of groups
--       then for each group: fair key, its bands (digits, e.g. '02'), a row of ids, a row of their scores (each
--       16 digits, so that one index cuts both)
-- Promise  Nothing without a generation, or with another one. Always writes ready, reserved or not; an id that is
--          there gets the new score. Doing it again changes nothing. Rings as many waiters as ids were added.
-- Returns  {generation or false, ids that were not in ready before}
-- Codes    error 'ERR taskmill: …' for arguments that do not fit, before anything is written
--- @include "layout"
--- @include "clock"
--- @include "activate"
--- @include "wake"

local now, patience, groups = now_of(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[6])
if not now or not patience or not groups or #ARGV ~= 6 + 4 * groups then
  return redis.error_reply('ERR taskmill: push: arguments')
end
for at = 7, #ARGV, 4 do
  local ids, scores = ARGV[at + 2], ARGV[at + 3]
  if not string.find(ARGV[at + 1], '^[0-3]+$') or not string.find(scores, '^%d+$') or #ids ~= #scores
      or #ids % ID_BYTES ~= 0 or #ids > 2000 * ID_BYTES then
    return redis.error_reply('ERR taskmill: push: group')
  end
end

local state = redis.call('HMGET', G, 'gen', 'paused')
local generation = state[1]
if not generation or (ARGV[2] ~= '' and ARGV[2] ~= generation) then
  return { generation, 0 }
end

-- ZADD comes first: out of memory, it is refused before anything has changed.
local added, fairs = 0, { [0] = {}, {}, {}, {} }
for at = 7, #ARGV, 4 do
  local fair, ids, scores = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  local add = {}
  for from = 1, #ids, ID_BYTES do
    add[#add + 1] = string.sub(scores, from, from + ID_BYTES - 1)
    add[#add + 1] = string.sub(ids, from, from + ID_BYTES - 1)
  end
  added = added + redis.call('ZADD', P .. 'r' .. fair, unpack(add))
  for digit in string.gmatch(ARGV[at + 1], '%d') do
    local list = fairs[tonumber(digit)]
    list[#list + 1] = fair
  end
end
for band = 0, 3 do
  if #fairs[band] > 0 then
    activate(band, fairs[band])
  end
end
if not state[2] then
  wake(added, now, patience, ARGV[4], ARGV[5])
end
return { generation, added }
