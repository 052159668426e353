#!lua flags=allow-oom
-- Makes the head of a new store, if there is none. A log and replicas without a head are of a store that was lost.
-- KEYS: head, log, members, the marker of a migration. ARGV: a fresh lineage, the format, and, of a store that is closed to all but a
-- migration from the beginning on, where its records come from.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq')
if head[1] then
  -- Written again as it is, so that whoever tries again can wait for the replicas to confirm it.
  redis.call('HSET', KEYS[1], 'id', head[1])
  return {'THERE', head[1], head[2], redis.call('HGET', KEYS[1], 'format')}
end
redis.call('DEL', KEYS[2], KEYS[3])
if ARGV[3] then redis.call('SET', KEYS[4], ARGV[3]) end
redis.call('HSET', KEYS[1], 'format', ARGV[2], 'id', ARGV[1], 'seq', '0', 'h', '')
return {'MADE', ARGV[1], '0', ARGV[2]}
