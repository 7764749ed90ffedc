-- probe: can scripts run and write here?
-- KEYS  1 {prefix/queue}:probe
-- Promise  Writes one small key that expires: a replica, a full or a loading server refuses it.
-- Returns  {unix seconds, µs}
local now = redis.call('TIME')
redis.call('SET', KEYS[1], now[1], 'PX', 60000)
return now
