-- KEYS epoch, entries, settled · ARGV epoch, generation, (uri, stamp)…
-- Only the very look that was published leaves the settled set; a newer one waits for the next build.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
for i = 3, #ARGV, 2 do
  local uri, stamp = ARGV[i], tonumber(ARGV[i + 1])
  local settled = redis.call('ZSCORE', KEYS[3], uri)
  if settled and tonumber(settled) <= stamp then redis.call('ZREM', KEYS[3], uri) end
  local entry = redis.call('HGET', KEYS[2], uri)
  if entry and stamp_of(entry) == stamp then
    redis.call('HSET', KEYS[2], uri, (string.gsub(entry, ',%d+%]$', ',' .. ARGV[2] .. ']')))
  end
end
return 1
