-- reset: begins a generation where there is none.
-- KEYS  1 {prefix/queue}:g
-- ARGV  1 new generation (random)
-- Promise  Acts only if there is no generation, and sets `fill`: until warm, workers also take from SQL. So two
--          schedulers agree on one generation, and a second reset changes nothing.
-- Returns  the generation in force
local generation = redis.call('HGET', KEYS[1], 'gen')
if generation then
  return generation
end
redis.call('HSET', KEYS[1], 'gen', ARGV[1], 'fill', '1')
return ARGV[1]
