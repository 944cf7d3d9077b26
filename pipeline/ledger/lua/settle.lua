-- KEYS epoch, entries, names, noticed, settled, claims, attempts, contents, dead
-- ARGV epoch, stamp, (uri, entry, state, base, content hash, shard, dead letter)…
-- `base` is the stamp of the published look that the outcome merely confirms, or '' where the index has to change;
-- a base that was overtaken confirms nothing, so the outcome is published after all.
-- The highest stamp wins: an entry replaces an older one, never a newer one. Returns how many were taken, or -1 where
-- the ledger has lost its memory since the look began.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local stamp = tonumber(ARGV[2])
local taken = 0
for i = 3, #ARGV, 7 do
  local uri, entry, state, base, content, shard, letter = unpack(ARGV, i, i + 6)
  local claim = redis.call('HGET', KEYS[6], uri)
  if claim and string.match(claim, '^(%d+):') == ARGV[2] then redis.call('HDEL', KEYS[6], uri) end
  local old = redis.call('HGET', KEYS[2], uri)
  if not old or stamp_of(old) < stamp then
    taken = taken + 1
    redis.call('HSET', KEYS[2], uri, entry)
    redis.call('HDEL', KEYS[7], uri)
    if state == 'removed' then redis.call('ZREM', KEYS[3], uri) else redis.call('ZADD', KEYS[3], 0, uri) end
    if state == 'dead' then
      redis.call('ZREM', KEYS[5], uri)
      if letter ~= '' then redis.call('HSET', KEYS[9], uri, letter) end
    else
      redis.call('HDEL', KEYS[9], uri)
      local confirmed = base ~= '' and old and stamp_of(old) == tonumber(base)
      if not confirmed or redis.call('ZSCORE', KEYS[5], uri) then redis.call('ZADD', KEYS[5], ARGV[2], uri) end
      if content ~= '' and shard ~= '' then redis.call('HSET', KEYS[8], content, shard) end
    end
  end
  local noticed = redis.call('ZSCORE', KEYS[4], uri)
  if noticed and tonumber(noticed) < stamp then redis.call('ZREM', KEYS[4], uri) end
end
return taken
