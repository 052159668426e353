#!lua flags=allow-oom
-- Begins a new lineage with the records that are there, if they are those that somebody has looked at: every replica then
-- empties its cache and begins anew. The log begins anew, too; its numbers go on. Its row in the audit log is one with it.
-- KEYS: head, log, audit log, members. ARGV: the lineage, the number, the hash and the end of the log as they were looked at, a fresh
-- lineage, an event that touches all, a row for the audit log, the lineages that it had before or nothing, and the lists that the
-- row stands on.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'members')
if not head[1] then return {'LOST'} end
local function last(stream)
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return entry and tonumber(string.match(entry[1], '^%d+')) or 0
end
local newest = last(KEYS[2])
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] or newest ~= tonumber(ARGV[4]) then return {'STALE'} end
local row = string.format('%.0f', last(KEYS[3]) + 1)

local number = string.format('%.0f', math.max(newest, tonumber(head[2])) + 1)
local h = redis.sha1hex(ARGV[5] .. '::' .. number .. ':' .. ARGV[6])
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[2], number .. '-0', 'h', h, 'p', ARGV[6])
redis.call('HSET', KEYS[1], 'id', ARGV[5], 'seq', number, 'h', h)
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'was', ARGV[8]) end
redis.call('HDEL', KEYS[1], 'missed', 'copied')

-- Those that refuse everything refuse what is no more. One that runs lists itself again before it answers anything.
local members = redis.call('HGETALL', KEYS[4])
for at = 1, #members, 2 do
  local readable, member = pcall(cjson.decode, members[at + 1])
  if readable and type(member) == 'table' and member.state == 'sealed' then
    redis.call('HDEL', KEYS[4], members[at])
    if head[4] then redis.call('HINCRBY', KEYS[1], 'members', -1) end
  end
end
redis.call('XADD', KEYS[3], row .. '-0', 'p', ARGV[7])
for n = 9, #ARGV do redis.call('ZADD', ARGV[n], row, row) end
return {'DONE', ARGV[5], number}
