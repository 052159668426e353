#!lua flags=allow-oom
-- What the scripts that look at the list of replicas begin with.

-- The server's time, which its user need not be allowed to ask for, and which never goes back.
local function time(clock)
  return tonumber(string.match(redis.call('XADD', clock, 'MAXLEN', '1', '*', 't', ''), '^%d+'))
end

local function text(number) return string.format('%.0f', number) end

-- How many of the replicas that the head has counted are not listed, until when the last of those with a grace could go on without the
-- store, and that grace. Kept as it was when the loss was seen: whoever is listed prolongs only its own grace from then on.
local function unlisted(head, members, counted)
  local missing = (tonumber(counted) or 0) - redis.call('HLEN', members)
  if missing <= 0 then return 0, 0, 0 end
  local lost = redis.call('HGET', head, 'lost')
  local known, last, grace = string.match(lost or '0 0 0', '^(%d+) (%d+) (%d+)$')
  last, grace = tonumber(last), tonumber(grace)
  if missing > tonumber(known) then
    local fields = redis.call('HGETALL', head)
    for at = 1, #fields, 2 do
      local announced = tonumber(string.match(fields[at], '^grace:(%d+)$') or '')
      if announced and tonumber(fields[at + 1]) > last then last, grace = tonumber(fields[at + 1]), announced end
    end
    redis.call('HSET', head, 'lost', text(missing) .. ' ' .. text(last) .. ' ' .. text(grace))
  end
  return missing, last, grace
end

