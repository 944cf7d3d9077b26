-- KEYS epoch, stamp, noticed · ARGV expected epoch, uri… · returns the stamp, or false where the ledger lost its memory
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local stamp = next_stamp(KEYS[2])
for i = 2, #ARGV do redis.call('ZADD', KEYS[3], text(stamp), ARGV[i]) end
return text(stamp)
