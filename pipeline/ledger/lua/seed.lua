-- KEYS entries, names, contents, stamp · ARGV (uri, entry, content hash)… · never overwrites what a look has found
for i = 1, #ARGV, 3 do
  local uri, entry, content = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HSETNX', KEYS[1], uri, entry) == 1 then redis.call('ZADD', KEYS[2], 0, uri) end
  redis.call('HSETNX', KEYS[3], content, '')
  if stamp_of(entry) > tonumber(redis.call('GET', KEYS[4]) or '0') then redis.call('SET', KEYS[4], text(stamp_of(entry))) end
end
return 1
