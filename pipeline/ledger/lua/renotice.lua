-- KEYS epoch, stamp, noticed, settled, entries, contents · ARGV epoch, (uri, stamp, content hash, unread entry)…
-- A reuse that the build had to refuse: the look goes back to noticed and its content counts as unknown. The document
-- itself stays known, as the index may hold an older version of it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local now = next_stamp(KEYS[2])
for i = 2, #ARGV, 4 do
  local uri, stamp, content, unread = unpack(ARGV, i, i + 3)
  local settled = redis.call('ZSCORE', KEYS[4], uri)
  if settled and tonumber(settled) <= tonumber(stamp) then
    redis.call('ZREM', KEYS[4], uri)
    redis.call('HSET', KEYS[5], uri, unread)
    redis.call('HDEL', KEYS[6], content)
    redis.call('ZADD', KEYS[3], text(now), uri)
  end
end
return text(now)
