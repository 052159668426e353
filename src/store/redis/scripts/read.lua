#!lua flags=allow-oom
-- Reads records and the head, of one moment. Not marked as one that only reads, so that a primary which was demoted, or which
-- must not write, refuses it instead of answering with what was true once.
-- KEYS: head, records. ARGV: how many of the first records may name a project, prefix of projects.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format', 'h')
if not head[1] then return {'LOST'} end

local values, project, named = {}, false, false
for n = 2, #KEYS do
  local value = redis.call('GET', KEYS[n])
  values[n - 1] = value
  if value and not named and n - 1 <= tonumber(ARGV[1]) then
    named = true
    local stop = string.find(value, '\0', 1, true)
    if stop then project = redis.call('GET', ARGV[2] .. string.sub(value, 1, stop - 1)) end
  end
end
return {'DONE', head[1], head[2], head[3], values, project, head[4]}
