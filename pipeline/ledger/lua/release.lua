-- KEYS claims · ARGV claim stamp, uri… · drops the claims that are still ours
for i = 2, #ARGV do
  local claim = redis.call('HGET', KEYS[1], ARGV[i])
  if claim and string.match(claim, '^(%d+):') == ARGV[1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
