-- KEYS attempts · ARGV (uri, version)… · counts one more attempt at each version, returns the counts
local out = {}
for i = 1, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  local count = 1
  if old then
    local n, version = string.match(old, '^(%d+):(.*)$')
    if version == ARGV[i + 1] then count = tonumber(n) + 1 end
  end
  redis.call('HSET', KEYS[1], ARGV[i], count .. ':' .. ARGV[i + 1])
  out[#out + 1] = count
end
return out
