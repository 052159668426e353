#!lua flags=allow-oom
-- Forgets a replica that has ended.
-- KEYS: head, members. ARGV: id of the member.
if redis.call('HDEL', KEYS[2], ARGV[1]) == 1 and redis.call('HEXISTS', KEYS[1], 'members') == 1 then
  redis.call('HINCRBY', KEYS[1], 'members', -1)
end
return {'DONE'}
