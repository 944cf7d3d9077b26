-- KEYS entries · ARGV (uri, stamp)… · forgets the entries that no look has replaced since they were listed
for i = 1, #ARGV, 2 do
  local entry = redis.call('HGET', KEYS[1], ARGV[i])
  if entry and stamp_of(entry) == tonumber(ARGV[i + 1]) then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
