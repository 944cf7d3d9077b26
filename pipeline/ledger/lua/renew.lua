-- KEYS stamp, claims · ARGV claim stamp, claim length in µs, uri… · prolongs the claims that are still ours
local deadline = text(next_stamp(KEYS[1]) + ARGV[2])
for i = 3, #ARGV do
  local claim = redis.call('HGET', KEYS[2], ARGV[i])
  if claim and string.match(claim, '^(%d+):') == ARGV[1] then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[1] .. ':' .. deadline)
  end
end
return 1
