#!lua flags=allow-oom
-- Forgets a replica, unless it has been heard of since.
-- KEYS: head, members. ARGV: id of the member, the beat it must still have.
local value = redis.call('HGET', KEYS[2], ARGV[1])
if not value then return {'DONE', '0'} end
local readable, member = pcall(cjson.decode, value)
local beat = readable and type(member) == 'table' and tonumber(member.beat) or 0
if beat ~= tonumber(ARGV[2]) then return {'DONE', '0'} end
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HEXISTS', KEYS[1], 'members') == 1 then redis.call('HINCRBY', KEYS[1], 'members', -1) end
return {'DONE', '1'}
