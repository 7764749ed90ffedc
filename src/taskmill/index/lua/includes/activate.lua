-- activate(band, fair): the fair key has ready work in the band. It enters at the band's virtual time, or at its
-- own kept one when that is ahead: who was just served does not jump the line by coming back.
local function activate(band, fair)
  local active, kept = P .. 'a' .. band, P .. 't' .. band
  if redis.call('ZSCORE', active, fair) then
    return
  end
  local at = stored(redis.call('HGET', G, 'v' .. band))
  local own = redis.call('ZSCORE', kept, fair)
  if own then
    at = math.max(at, stored(own))
    redis.call('ZREM', kept, fair)
  end
  redis.call('ZADD', active, number(at), fair)
end

-- retire(band, fair, at): no ready work left in the band. Its virtual time is kept only while it is ahead.
local function retire(band, fair, at, reached)
  redis.call('ZREM', P .. 'a' .. band, fair)
  if at > reached then
    redis.call('ZADD', P .. 't' .. band, number(at), fair)
  end
end
