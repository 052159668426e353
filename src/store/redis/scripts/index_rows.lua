#!lua
-- Puts rows of the audit log on lists that came later than they. Doing it again changes nothing.
-- KEYS: head. ARGV: the lineage, and then lists, each with the number of a row.
local head = redis.call('HMGET', KEYS[1], 'id', 'missed')
if not head[1] then return {'LOST'} end
if head[2] then return {'MISSED'} end
if head[1] ~= ARGV[1] then return {'STALE'} end
for at = 2, #ARGV, 2 do
  redis.call('ZADD', ARGV[at], ARGV[at + 1], ARGV[at + 1])
end
return {'DONE'}
