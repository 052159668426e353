#!lua
-- Closes an empty store to everybody but one migration, or finds that this migration has closed or filled it before.
-- KEYS: head, marker. ARGV: where the records come from, the format of an unfinished store, the formats of whole ones.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'format')
if not head[1] then return {'LOST'} end

local origin = redis.call('GET', KEYS[2])
if head[3] == ARGV[2] then
  if origin ~= ARGV[1] then return {'OTHER', origin or 'a store that nobody named'} end
  return {'OPEN', head[1]}
end
local is_whole = false
for n = 3, #ARGV do is_whole = is_whole or head[3] == ARGV[n] end
if not is_whole then return {'FORMAT', head[3]} end
if origin == ARGV[1] then return {'ENDED', head[1]} end
if head[2] ~= '0' then return {'USED'} end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'format', ARGV[2])
return {'OPEN', head[1]}
