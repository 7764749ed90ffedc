-- wipe: a key of the queue has a type that is not ours. The index is disposable: everything goes, the generation
-- with it, and verify fills it again.
-- KEYS  1 {prefix/queue}:g
-- ARGV  fair keys that the caller knows of
-- Promise  No key with a wrong type is left among those the scripts reach; keys of other queues are not touched.
-- Returns  number of keys deleted
--- @include "layout"
--- @include "reservation"

local fairs = {}
for k = 1, #ARGV do
  fairs[ARGV[k]] = true
end
for band = 0, 3 do
  local active = redis.pcall('ZRANGE', P .. 'a' .. band, 0, -1)
  for k = 1, active.err and 0 or #active do
    fairs[active[k]] = true
  end
end
local held = redis.pcall('HVALS', M)
for k = 1, held.err and 0 or #held do
  local _, _, fair = unpack_reservation(held[k])
  if fair then
    fairs[fair] = true
  end
end
local count = redis.call('UNLINK', G, V, M, I)
for band = 0, 3 do
  count = count + redis.call('UNLINK', P .. 'a' .. band, P .. 't' .. band)
end
for fair in pairs(fairs) do
  count = count + redis.call('UNLINK', P .. 'r' .. fair)
end
return count
