-- sizes: how many tasks are ready in each band.
-- KEYS  1 {prefix/queue}:g
-- ARGV  1 most fair keys to look at in a band
-- Promise  Reads only. Exact up to that many fair keys; beyond, the first ones stand for the rest.
-- Returns  {count of band 0, … of band 3, reserved}
--- @include "layout"

local most = tonumber(ARGV[1])
local reply = {}
for band = 0, 3 do
  local active = P .. 'a' .. band
  local keys = redis.call('ZRANGE', active, 0, most - 1)
  local count = 0
  for k = 1, #keys do
    count = count + redis.call('ZCOUNT', P .. 'r' .. keys[k], FROM[band], TO[band])
  end
  if #keys == most then
    count = math.floor(count * redis.call('ZCARD', active) / most)
  end
  reply[band + 1] = count
end
reply[5] = redis.call('ZCARD', V)
return reply
