#!lua flags=allow-oom
-- Begins a new lineage with the records that are there, if they are those that somebody has looked at: every replica then
-- empties its cache and begins anew. The log begins anew, too; its numbers go on.
-- KEYS: head, log. ARGV: the lineage and the number that were looked at, a fresh lineage, an event that touches all.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq')
if not head[1] then return {'LOST'} end
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then return {'STALE'} end

local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local newest = last and tonumber(string.match(last[1], '^%d+')) or 0
local number = string.format('%.0f', math.max(newest, tonumber(head[2])) + 1)
local h = redis.sha1hex(ARGV[3] .. '::' .. number .. ':' .. ARGV[4])
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[2], number .. '-0', 'h', h, 'p', ARGV[4])
redis.call('HSET', KEYS[1], 'id', ARGV[3], 'seq', number, 'h', h)
redis.call('HDEL', KEYS[1], 'missed')
return {'DONE', ARGV[3], number}
