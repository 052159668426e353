#!lua flags=allow-oom
-- Lists the replicas. Not marked as one that only reads: see read.lua.
-- KEYS: head, members.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format')
if not head[1] then return {'LOST'} end
return {'DONE', head[1], head[2], head[3], redis.call('HGETALL', KEYS[2])}
