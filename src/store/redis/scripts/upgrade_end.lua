#!lua
-- Says that all of a store is of the format that it was on its way to, as one change that touches everything.
-- KEYS: head, log, the mark of the upgrade, which goes with it. ARGV: the lineage, the format under way, the format, event.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'format', 'missed')
if not head[1] then return {'LOST'} end
if head[5] then return {'MISSED'} end
-- A change on top of a log that was lost would hide the loss.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if (last and tonumber(string.match(last[1], '^%d+')) or 0) ~= tonumber(head[2]) then return {'SHORT'} end
if head[1] ~= ARGV[1] then return {'STALE'} end
if head[4] == ARGV[3] then
  redis.call('DEL', KEYS[3])
  return {'DONE'}
end
if head[4] ~= ARGV[2] then return {'STALE'} end

local number = string.format('%.0f', tonumber(head[2]) + 1)
local h = redis.sha1hex(head[1] .. ':' .. head[3] .. ':' .. number .. ':' .. ARGV[4])
redis.call('XADD', KEYS[2], number .. '-0', 'h', h, 'p', ARGV[4])
redis.call('HSET', KEYS[1], 'seq', number, 'h', h, 'format', ARGV[3])
redis.call('DEL', KEYS[3])
return {'DONE'}
