#!lua
-- Opens a store that a migration has filled, as one change that touches everything.
-- KEYS: head, marker, log. ARGV: the lineage, where the records come from, the format, the format of an unfinished store,
-- event, the lineages that the records had before or nothing; and, where they were put back from a copy, the lineage, number and hash
-- that the copy ends with, from which it goes on: whoever knows more of that lineage finds that it is missing.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'format')
if not head[1] then return {'LOST'} end
if head[1] ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'STALE'} end
if head[4] == ARGV[3] then return {'DONE'} end
if head[4] ~= ARGV[4] then return {'STALE'} end

local id, seq, h = ARGV[7] or head[1], ARGV[8] or head[2], ARGV[9] or head[3]
local number = string.format('%.0f', tonumber(seq) + 1)
h = redis.sha1hex(id .. ':' .. h .. ':' .. number .. ':' .. ARGV[5])
redis.call('XADD', KEYS[3], number .. '-0', 'h', h, 'p', ARGV[5])
redis.call('HSET', KEYS[1], 'id', id, 'seq', number, 'h', h, 'format', ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'was', ARGV[6]) end
return {'DONE'}
