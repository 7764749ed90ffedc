-- Reservations: v (expiry) and m (who, and the way back into ready) always change together.

-- unpack_reservation(value): token, score (text), fair key; nothing for a damaged value.
local function unpack_reservation(value)
  if not value then
    return nil
  end
  local gap = string.find(value, ' ', TOKEN_BYTES + 1, true)
  local score = gap and string.sub(value, TOKEN_BYTES + 1, gap - 1)
  local x = tonumber(score or '')
  if not x or x ~= x then
    return nil
  end
  return string.sub(value, 1, TOKEN_BYTES), score, string.sub(value, gap + 1)
end

-- hold_all(found, token, expiry): found = {id, fair key, score, ...}
local function hold_all(found, token, expiry)
  if #found == 0 then
    return
  end
  local times, values = {}, {}
  expiry = number(expiry)
  for k = 1, #found, 3 do
    local id = found[k]
    times[#times + 1] = expiry
    times[#times + 1] = id
    values[#values + 1] = id
    values[#values + 1] = token .. found[k + 2] .. ' ' .. found[k + 1]
  end
  redis.call('ZADD', V, unpack(times))
  redis.call('HSET', M, unpack(values))
end

-- owned(pairs, first, last): `pairs` is a row of id .. token. Of those numbered first to last, the ids whose
-- reservation has that very token, and the stored value of each.
local function owned(pairs, first, last)
  local ids, values = {}, {}
  if last < first then
    return ids, values
  end
  local width = ID_BYTES + TOKEN_BYTES
  local asked, tokens = {}, {}
  for k = first, last do
    local at = (k - 1) * width
    asked[#asked + 1] = string.sub(pairs, at + 1, at + ID_BYTES)
    tokens[#tokens + 1] = string.sub(pairs, at + ID_BYTES + 1, at + width)
  end
  local found = redis.call('HMGET', M, unpack(asked))
  for k = 1, #asked do
    local value = found[k]
    if value and string.sub(value, 1, TOKEN_BYTES) == tokens[k] then
      ids[#ids + 1] = asked[k]
      values[#values + 1] = value
    end
  end
  return ids, values
end

local function forget(ids)
  if #ids > 0 then
    redis.call('HDEL', M, unpack(ids))
    redis.call('ZREM', V, unpack(ids))
  end
end

-- put_back(ids, values): from reserved to ready, with the score they had; a newer push keeps its score (NX).
local function put_back(ids, values)
  forget(ids)
  local fairs = { [0] = {}, {}, {}, {} }
  for k = 1, #ids do
    local _, score, fair = unpack_reservation(values[k])
    if score and #ids[k] == ID_BYTES then
      redis.call('ZADD', P .. 'r' .. fair, 'NX', score, ids[k])
      local band = math.floor(tonumber(score) / 2251799813685248)
      local list = fairs[math.max(0, math.min(3, band))]
      list[#list + 1] = fair
    end
  end
  for band = 0, 3 do
    if #fairs[band] > 0 then
      activate(band, fairs[band])
    end
  end
end

-- return_run_out(now): reservations whose time is up go back to ready, at most 500 a call.
local function return_run_out(now)
  local ids = redis.call('ZRANGEBYSCORE', V, '-inf', number(now), 'LIMIT', 0, 500)
  if #ids > 0 then
    put_back(ids, redis.call('HMGET', M, unpack(ids)))
  end
end
