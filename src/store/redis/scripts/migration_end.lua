#!lua
-- Opens a store that a migration has filled, as one change that touches everything.
-- KEYS: head, marker, log, audit log. ARGV: the lineage, where the records come from, the format, the format of an unfinished store,
-- event, the lineages that the records had before or nothing; and, where they were put back from a copy, the lineage, number and hash
-- that the copy ends with, from which it goes on: whoever knows more of that lineage finds that it is missing. Then the epoch of its
-- servers by then, or nothing; and, if there is one, a row for the audit log and the lists that it stands on.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'format')
if not head[1] then return {'LOST'} end
if head[1] ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'STALE'} end
if head[4] == ARGV[3] then return {'DONE'} end
if head[4] ~= ARGV[4] then return {'STALE'} end

local id, seq, h = head[1], head[2], head[3]
if ARGV[7] ~= '' then id, seq, h = ARGV[7], ARGV[8], ARGV[9] end
local number = string.format('%.0f', tonumber(seq) + 1)
h = redis.sha1hex(id .. ':' .. h .. ':' .. number .. ':' .. ARGV[5])
redis.call('XADD', KEYS[3], number .. '-0', 'h', h, 'p', ARGV[5])
redis.call('HSET', KEYS[1], 'id', id, 'seq', number, 'h', h, 'format', ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'was', ARGV[6]) end
if ARGV[10] ~= '' then redis.call('HSET', KEYS[1], 'copied', ARGV[10]) end
if ARGV[11] then
  local last = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
  local row = string.format('%.0f', (last and tonumber(string.match(last[1], '^%d+')) or 0) + 1)
  redis.call('XADD', KEYS[4], row .. '-0', 'p', ARGV[11])
  for n = 12, #ARGV do redis.call('ZADD', ARGV[n], row, row) end
end
return {'DONE'}
