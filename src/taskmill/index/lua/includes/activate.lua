-- activate(band, fairs): these fair keys have ready work in the band. A new one enters at the band's virtual time, or
-- at its own kept one when that is ahead: who was just served does not jump the line by coming back.
local function activate(band, fairs)
  local active, kept = P .. 'a' .. band, P .. 't' .. band
  local there, fresh = redis.call('ZMSCORE', active, unpack(fairs)), {}
  for k = 1, #fairs do
    if not there[k] then
      fresh[#fresh + 1] = fairs[k]
    end
  end
  if #fresh == 0 then
    return
  end
  local reached = stored(redis.call('HGET', G, 'v' .. band))
  local own, add = redis.call('ZMSCORE', kept, unpack(fresh)), {}
  for k = 1, #fresh do
    add[2 * k - 1] = number(math.max(reached, stored(own[k])))
    add[2 * k] = fresh[k]
  end
  redis.call('ZADD', active, unpack(add))
  redis.call('ZREM', kept, unpack(fresh))
end

-- retire(band, fairs, at, reached): they have no ready work left in the band. A virtual time (at[k]) is kept only
-- while it is ahead of the band's.
local function retire(band, fairs, at, reached)
  local ahead = {}
  for k = 1, #fairs do
    if at[k] > reached then
      ahead[#ahead + 1] = number(at[k])
      ahead[#ahead + 1] = fairs[k]
    end
  end
  if #fairs > 0 then
    redis.call('ZREM', P .. 'a' .. band, unpack(fairs))
  end
  if #ahead > 0 then
    redis.call('ZADD', P .. 't' .. band, unpack(ahead))
  end
end
