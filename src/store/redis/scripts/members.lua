#!lua flags=allow-oom
-- Lists the replicas. And how many the head has counted that are not listed, for how long the last of those with a grace could
-- go on without the store, and that grace. Not marked as one that only reads: see read.lua.
-- KEYS: head, members, clock: see renew.lua.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format', 'members')
if not head[1] then return {'LOST'} end

local function text(number) return string.format('%.0f', number) end
local missing = math.max(0, (tonumber(head[4]) or 0) - redis.call('HLEN', KEYS[2]))
local still, grace = 0, 0
if missing > 0 then
  local fields = redis.call('HGETALL', KEYS[1])
  local now = tonumber(string.match(redis.call('XADD', KEYS[3], 'MAXLEN', '1', '*', 't', ''), '^%d+'))
  for at = 1, #fields, 2 do
    local announced = tonumber(string.match(fields[at], '^grace:(%d+)$') or '')
    if announced and tonumber(fields[at + 1]) - now > still then
      still, grace = tonumber(fields[at + 1]) - now, announced
    end
  end
end
return {'DONE', head[1], head[2], head[3], redis.call('HGETALL', KEYS[2]), text(missing), text(still), text(grace)}
