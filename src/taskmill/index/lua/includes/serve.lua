-- serve(band, want, found, seen): moves up to `want` ids of one band out of ready into `found` (id, fair key, score).
-- Fair: always the fair key with the least virtual time, which then grows by one for each id. Looks at no more
-- fair keys than it can serve, whatever their number. Returns how many it found.

local function before(x, y)
  return x.at < y.at or (x.at == y.at and x.rank < y.rank)
end

-- Puts the root of a binary heap back in order after its virtual time grew.
local function sink(heap, size)
  local k = 1
  while true do
    local least, left = k, 2 * k
    if left <= size and before(heap[left], heap[least]) then least = left end
    if left < size and before(heap[left + 1], heap[least]) then least = left + 1 end
    if least == k then
      return
    end
    heap[k], heap[least] = heap[least], heap[k]
    k = least
  end
end

-- The line's next id and score; nil at its end. Reads ahead one more than it needs, so the end is seen at once.
local function head(line, band, chunk)
  if line.k > #line.items then
    if line.ended then
      return nil
    end
    local more = redis.call('ZRANGEBYSCORE', P .. 'r' .. line.fair, FROM[band], TO[band],
      'WITHSCORES', 'LIMIT', line.read, chunk + 1)
    line.items, line.k, line.read = more, 1, line.read + #more / 2
    line.ended = #more / 2 <= chunk
    if #more == 0 then
      return nil
    end
  end
  return line.items[line.k], line.items[line.k + 1]
end

local function serve_pass(band, want, found, seen, active)
  local heap, lines = {}, {}
  for k = 1, #active, 2 do
    local line = { fair = active[k], at = stored(active[k + 1]), rank = k, items = {}, k = 1, read = 0, taken = {} }
    heap[#heap + 1] = line   -- sorted by virtual time already, which is a heap
    lines[#lines + 1] = line
  end
  local size, served = #heap, 0
  local chunk = math.ceil(want / size)
  local reached = stored(redis.call('HGET', G, 'v' .. band))
  local start = reached
  while size > 0 and served < want do
    local line = heap[1]
    local id, score = head(line, band, chunk)
    if not id then
      heap[1] = heap[size]
      size = size - 1
    else
      line.k = line.k + 2
      line.taken[#line.taken + 1] = id
      -- Garbage and doubles leave ready, and are proposed to nobody.
      if #id == ID_BYTES and not seen[id] then
        seen[id] = true
        found[#found + 1] = id
        found[#found + 1] = line.fair
        found[#found + 1] = score
        served = served + 1
        reached = math.max(reached, line.at)
        line.at = line.at + 1
      end
    end
    sink(heap, size)
  end
  local done, done_at, still = {}, {}, {}
  for k = 1, #lines do
    local line = lines[k]
    local empty = line.ended and line.k > #line.items
    -- In slices: unpack() has a limit, and garbage has none.
    for first = 1, #line.taken, 1000 do
      redis.call('ZREM', P .. 'r' .. line.fair, unpack(line.taken, first, math.min(first + 999, #line.taken)))
    end
    if empty then
      done[#done + 1] = line.fair
      done_at[#done] = line.at
    elseif #line.taken > 0 then
      still[#still + 1] = number(line.at)
      still[#still + 1] = line.fair
    end
  end
  retire(band, done, done_at, reached)
  if #still > 0 then
    redis.call('ZADD', P .. 'a' .. band, unpack(still))
  end
  if reached > start then
    redis.call('HSET', G, 'v' .. band, number(reached))
    redis.call('ZREMRANGEBYSCORE', P .. 't' .. band, '-inf', number(reached))
  end
  return served
end

local function serve(band, want, found, seen)
  local total = 0
  while total < want do
    local active = redis.call('ZRANGE', P .. 'a' .. band, 0, want - total - 1, 'WITHSCORES')
    if #active == 0 then
      break
    end
    -- Terminates: a pass either serves what was asked or retires every fair key it looked at.
    total = total + serve_pass(band, want - total, found, seen, active)
  end
  return total
end
