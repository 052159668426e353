#!lua flags=allow-oom
-- Removes the oldest rows of the audit log, and from the lists of projects. The newest row stays, whatever is asked for: the next
-- one is numbered behind it.
-- KEYS: head, audit log. ARGV: the lineage, the number of the first row that stays, the lists.
local head = redis.call('HMGET', KEYS[1], 'id', 'missed')
if not head[1] then return {'LOST'} end
if head[2] then return {'MISSED'} end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if head[1] ~= ARGV[1] or not newest or tonumber(string.match(newest[1], '^%d+')) < tonumber(ARGV[2]) then return {'STALE'} end

for n = 3, #ARGV do redis.call('ZREMRANGEBYSCORE', ARGV[n], '-inf', '(' .. ARGV[2]) end
redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[2] .. '-0')
return {'DONE'}
