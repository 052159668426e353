#!lua flags=allow-oom
-- Reads the oldest rows of the audit log, of which the newest must stay. Not marked as one that only reads: see read.lua.
-- KEYS: head, audit log. ARGV: most rows.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format')
if not head[1] then return {'LOST'} end

local ids, rows = {}, {}
for n, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[1])) do
  ids[n], rows[n] = entry[1], entry[2][2]
end
return {'DONE', head[1], head[2], head[3], ids, rows}
