-- KEYS dead, attempts, entries · ARGV uri, and where its last look found it dead: that look's stamp, unread entry
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
local entry = redis.call('HGET', KEYS[3], ARGV[1])
if ARGV[2] and entry and stamp_of(entry) == tonumber(ARGV[2]) then redis.call('HSET', KEYS[3], ARGV[1], ARGV[3]) end
return 1
