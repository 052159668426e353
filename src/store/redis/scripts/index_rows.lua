#!lua
-- Puts rows of the audit log on lists that came later than they. Doing it again changes nothing.
-- KEYS: head. ARGV: the lineage, and then lists, each with the number of a row.
local id = redis.call('HGET', KEYS[1], 'id')
if not id then return {'LOST'} end
if id ~= ARGV[1] then return {'STALE'} end
for at = 2, #ARGV, 2 do
  redis.call('ZADD', ARGV[at], ARGV[at + 1], ARGV[at + 1])
end
return {'DONE'}
