#!lua flags=allow-oom
-- Takes the list of replicas for whole, once nobody can act any more of so many that are not on it. Should more be missing by now,
-- they have been lost since, and it waits for them, too. Forgets the graces that are over.
-- KEYS: head, members, clock: see renew.lua. ARGV: how many are missing.
local head = redis.call('HMGET', KEYS[1], 'id', 'members')
if not head[1] then return {'LOST'} end
local listed = redis.call('HLEN', KEYS[2])
if (tonumber(head[2]) or 0) - listed ~= tonumber(ARGV[1]) then return {'DONE', '0'} end
redis.call('HSET', KEYS[1], 'members', listed)
redis.call('HDEL', KEYS[1], 'lost')
local fields = redis.call('HGETALL', KEYS[1])
local now = tonumber(string.match(redis.call('XADD', KEYS[3], 'MAXLEN', '1', '*', 't', ''), '^%d+'))
for at = 1, #fields, 2 do
  if string.match(fields[at], '^grace:%d+$') and tonumber(fields[at + 1]) < now then redis.call('HDEL', KEYS[1], fields[at]) end
end
return {'DONE', '1'}
