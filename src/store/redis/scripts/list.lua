#!lua flags=allow-oom
-- Reads a page of a list and the records it names, of one moment. Not marked as one that only reads: see read.lua.
-- KEYS: head, list. ARGV: first, last, most members, prefix of the records or nothing, prefix of what points to them or nothing.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format')
if not head[1] then return {'LOST'} end

local members = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local records = {}
for n, member in ipairs(members) do
  local name = member
  if ARGV[5] ~= '' then name = redis.call('GET', ARGV[5] .. member) end
  records[n] = ARGV[4] ~= '' and name and redis.call('GET', ARGV[4] .. name)
end
return {'DONE', head[1], head[2], head[3], members, records}
