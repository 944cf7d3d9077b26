-- Shared by every script: strictly rising stamps, in microseconds of the server's clock, or last + 1.
local function next_stamp(key)
  local t = redis.call('TIME')
  local now = t[1] * 1000000 + t[2]
  local last = tonumber(redis.call('GET', key) or '0')
  if now <= last then now = last + 1 end
  redis.call('SET', key, string.format('%.0f', now))
  return now
end

-- An entry is a JSON list that opens with its stamp; sixteen digits are exact in a double.
local function stamp_of(entry)
  return tonumber(string.match(entry, '^%[(%d+)'))
end

local function text(number)
  return string.format('%.0f', number)
end
