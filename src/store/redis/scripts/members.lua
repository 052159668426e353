-- Lists the replicas. And how many the head has counted that are not listed, for how long the last of those with a grace could
-- go on without the store, and that grace. Not marked as one that only reads: see read.lua.
-- KEYS: head, members, clock: see renew.lua.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format', 'members')
if not head[1] then return {'LOST'} end

local missing, last, grace = unlisted(KEYS[1], KEYS[2], head[4])
local still = missing > 0 and math.max(0, last - time(KEYS[3])) or 0
return {'DONE', head[1], head[2], head[3], redis.call('HGETALL', KEYS[2]), text(missing), text(still), text(grace)}
