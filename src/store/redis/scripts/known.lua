#!lua flags=allow-oom
-- Finds the first of some places of a log that this one has, too. A number alone proves nothing: see renew.lua. Not marked as one
-- that only reads: see read.lua.
-- KEYS: head, log. ARGV: seq and h of a place that must be in this history unless it was trimmed, and of each place to find.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format')
if not head[1] then return {'LOST'} end

local function chain(seq)
  local id = seq .. '-0'
  local entry = redis.call('XRANGE', KEYS[2], id, id)[1]
  return entry and entry[2][2]
end

if tonumber(ARGV[1]) > tonumber(head[2]) or (chain(ARGV[1]) or ARGV[2]) ~= ARGV[2] then
  return {'STALE', head[1], head[2], head[3]}
end
for at = 3, #ARGV, 2 do
  if chain(ARGV[at]) == ARGV[at + 1] then return {'KNOWN', head[1], head[2], head[3], ARGV[at]} end
end
return {'UNKNOWN', head[1], head[2], head[3]}
