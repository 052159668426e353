#!lua flags=allow-oom
-- Tells what the store has, whole or not, and what its replicas say of it. Not marked as one that only reads: see read.lua.
-- KEYS: head, log, members.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format', 'missed', 'was', 'h', 'copied')
if not head[1] then return {'LOST'} end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local log = last and string.match(last[1], '^%d+') or '0'
local missed = head[4] and string.match(head[4], '^%S+ (%d+) ') or '0'
return {'DONE', head[1], head[2], head[3], log, redis.call('HGETALL', KEYS[3]), missed, head[5] or '', head[6] or '',
  head[7] or ''}
