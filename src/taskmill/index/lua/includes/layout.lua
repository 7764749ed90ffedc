-- The keys of one queue. All derive from KEYS[1] = {prefix/queue}:g, so they share one cluster slot.
--   g      hash  gen, fill, paused, v0..v3 (virtual time of each band)
--   r<fair key>  zset  ready; member = id (16 bytes), score = band * 2^51 + µs since 2020
--   a0..a3 zset  fair keys with ready work in the band, by virtual time
--   t0..t3 zset  virtual times kept for fair keys that have none, while they are ahead of the band's
--   v      zset  reserved ids, by expiry (µs)
--   m      hash  reserved id -> token (16 bytes) .. score .. ' ' .. fair key
--   i      zset  idle workers that wait, by the time they began (µs)
-- Left free for limits and weights: wt, p<key>, s<key>, rep, l, iv, tat, w.
local G = KEYS[1]
local P = string.sub(G, 1, -2)
local V, M, I = P .. 'v', P .. 'm', P .. 'i'

local ID_BYTES, TOKEN_BYTES = 16, 16

-- Score range of each band. The outer ends are open: a damaged score is served, not stranded.
local FROM = { [0] = '-inf', '2251799813685248', '4503599627370496', '6755399441055744' }
local TO = { [0] = '(2251799813685248', '(4503599627370496', '(6755399441055744', '+inf' }

-- tostring() keeps 14 digits; a score needs 53 bits.
local function number(x)
  return string.format('%.17g', x)
end

-- A number that was stored: 0 for whatever is not one (nan and infinities would break ZADD).
local function stored(text)
  local x = tonumber(text or '0')
  if not x or x ~= x or x == math.huge or x == -math.huge then
    return 0
  end
  return x
end
