-- wake(count, now, patience, channel, queue): rings at most `count` workers that wait, the freshest first: a dead
-- one sinks to the bottom, and after `patience` µs it is forgotten. A hint only, every waiter also polls.
local function wake(count, now, patience, channel, queue)
  if count <= 0 or redis.call('ZCARD', I) == 0 then
    return
  end
  redis.call('ZREMRANGEBYSCORE', I, '-inf', number(now - patience))
  local waiters = redis.call('ZPOPMAX', I, count)
  for k = 1, #waiters, 2 do
    redis.call('PUBLISH', channel .. waiters[k], queue)
  end
end
