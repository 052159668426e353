#!lua flags=allow-oom
-- Notes where a replica stands, and tells it what follows. A number alone proves nothing: a standby that was promoted may use
-- the numbers of lost changes again, so the position's hash must be the one in the log.
-- KEYS: head, log, members. ARGV: id of the member, what it says of itself, the same at position 0, seq, h, most entries.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h')
if not head[1] then return {'LOST'} end

local function is_known(seq, h)
  if seq > tonumber(head[2]) then return false end
  if seq == tonumber(head[2]) then return h == head[3] end
  local id = string.format('%.0f-0', seq)
  local entry = seq > 0 and redis.call('XRANGE', KEYS[2], id, id)[1]
  return entry and entry[2][2] == h
end

if not is_known(tonumber(ARGV[4]), ARGV[5]) then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  return {'RESYNC', head[1], head[2], head[3]}
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
local entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[4] .. '-0', '+', 'COUNT', ARGV[6])
return {'AHEAD', head[1], head[2], head[3], entries}
