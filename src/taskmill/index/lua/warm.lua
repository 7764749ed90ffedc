-- warm: the whole of SQL was pushed into this generation.
-- KEYS  1 {prefix/queue}:g
-- ARGV  1 generation
-- Promise  Clears `fill` of that generation only: a refill that outlived its generation publishes nothing.
-- Returns  1, or 0 when another generation (or none) is in force
if redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'fill')
return 1
