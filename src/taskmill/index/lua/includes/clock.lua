-- now(text): µs since the Unix epoch; '' reads the server's clock, so that skewed workers agree on expiry.
local function now_of(text)
  if text ~= '' then
    return tonumber(text)
  end
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end
