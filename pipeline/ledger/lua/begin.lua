-- KEYS epoch, stamp, noticed, claims, entries · ARGV claim length in µs, uri…
-- Takes the stamp before the look and claims what nobody looks at. A uri that is no longer noticed was settled, and one
-- under a live claim younger than its notice is being looked at: both are skipped, so a redelivery embeds nothing.
local epoch = redis.call('GET', KEYS[1])
if not epoch then return {} end
local stamp = next_stamp(KEYS[2])
local out = {epoch, text(stamp)}
for i = 2, #ARGV do
  local uri = ARGV[i]
  local noticed = tonumber(redis.call('ZSCORE', KEYS[3], uri) or '0')
  local claim = redis.call('HGET', KEYS[4], uri)
  local taken = false
  if claim then
    local since, deadline = string.match(claim, '^(%d+):(%d+)$')
    taken = tonumber(since) > noticed and tonumber(deadline) > stamp
  end
  if noticed > 0 and not taken then
    redis.call('HSET', KEYS[4], uri, text(stamp) .. ':' .. text(stamp + ARGV[1]))
    out[#out + 1] = uri
    out[#out + 1] = text(noticed)
    out[#out + 1] = redis.call('HGET', KEYS[5], uri) or ''
  end
end
return out
