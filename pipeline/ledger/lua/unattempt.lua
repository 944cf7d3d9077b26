-- KEYS attempts · ARGV (uri, version)… · takes one attempt at each version back
for i = 1, #ARGV, 2 do
  local n, version = string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^(%d+):(.*)$')
  if version == ARGV[i + 1] then
    if tonumber(n) > 1 then
      redis.call('HSET', KEYS[1], ARGV[i], (tonumber(n) - 1) .. ':' .. version)
    else
      redis.call('HDEL', KEYS[1], ARGV[i])
    end
  end
end
return 1
