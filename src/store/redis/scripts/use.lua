#!lua
-- Notes when keys were last used; later times win. Refused where memory is full, as it is the last thing to matter.
-- KEYS: the hash of these keys. ARGV: ids and milliseconds, in turn.
for at = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  if not known or tonumber(known) < tonumber(ARGV[at + 1]) then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
return {'DONE'}
