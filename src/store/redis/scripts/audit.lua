#!lua flags=allow-oom
-- Reads rows of the audit log, the newest first. Not marked as one that only reads: see read.lua.
-- KEYS: head, audit log, list of rows if only those are wanted. ARGV: the highest number, most rows.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format')
if not head[1] then return {'LOST'} end

local ids, rows = {}, {}
local function add(entry)
  ids[#ids + 1] = entry[1]
  rows[#rows + 1] = entry[2][2]
end
if KEYS[3] then
  for _, number in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[3], ARGV[1], '-inf', 'LIMIT', 0, ARGV[2])) do
    local entry = redis.call('XRANGE', KEYS[2], number .. '-0', number .. '-0')[1]
    if entry then add(entry) else ids[#ids + 1], rows[#rows + 1] = number, false end
  end
else
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], ARGV[1], '-', 'COUNT', ARGV[2])) do add(entry) end
end
return {'DONE', head[1], head[2], head[3], ids, rows}
