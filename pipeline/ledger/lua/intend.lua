-- KEYS epoch, intent · ARGV expected epoch, manifest · returns 0 where the ledger lost its memory
-- What is about to be published is written into the memory it was read from: a generation that no intent explains was
-- published from another one.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
