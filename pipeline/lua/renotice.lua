-- KEYS epoch, stamp, noticed, settled, entries, contents · ARGV epoch, (uri, stamp, content hash)…
-- A reuse that the build had to refuse: the look goes back to noticed and its content counts as unknown.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local now = next_stamp(KEYS[2])
for i = 2, #ARGV, 3 do
  local uri, stamp, content = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local settled = redis.call('ZSCORE', KEYS[4], uri)
  if settled and tonumber(settled) <= stamp then
    redis.call('ZREM', KEYS[4], uri)
    redis.call('HDEL', KEYS[5], uri)
    redis.call('HDEL', KEYS[6], content)
    redis.call('ZADD', KEYS[3], text(now), uri)
  end
end
return text(now)
