#!lua
-- Writes records of another store as they are, all or none. Every check comes before the first write: Lua takes nothing back.
-- KEYS: head, marker, audit log. ARGV: the lineage, where the records come from, the format of an unfinished store, the number
-- of the last row that the audit log has, if it has any, names that must be free, each after NONE, and then what to write.
local AUDIT = KEYS[3]
local head = redis.call('HMGET', KEYS[1], 'id', 'format')
if not head[1] then return {'LOST'} end
if head[1] ~= ARGV[1] or head[2] ~= ARGV[3] or redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'STALE'} end

local last = redis.call('XREVRANGE', AUDIT, '+', '-', 'COUNT', 1)[1]
local rows = last and tonumber(string.match(last[1], '^%d+')) or 0
if ARGV[4] ~= '' then
  -- The oldest rows of the source may have been removed.
  if rows ~= 0 and rows ~= tonumber(ARGV[4]) then return {'STALE'} end
  rows = tonumber(ARGV[4])
end
local at = 5
while ARGV[at] == 'NONE' do
  if redis.call('EXISTS', ARGV[at + 1]) == 1 then return {'STALE'} end
  at = at + 2
end

while at <= #ARGV do
  local what, key, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if what == 'SET' then
    redis.call('SET', key, value)
    at = at + 3
  elseif what == 'KEEP' then
    redis.call('SET', key, value, 'PX', ARGV[at + 3])
    at = at + 4
  elseif what == 'LIST' then
    redis.call('ZADD', key, 0, value)
    at = at + 3
  else -- ROW: on how many lists, the row, the lists
    rows = rows + 1
    redis.call('XADD', AUDIT, string.format('%.0f-0', rows), 'p', value)
    for n = 1, tonumber(key) do redis.call('ZADD', ARGV[at + 2 + n], rows, string.format('%.0f', rows)) end
    at = at + 3 + tonumber(key)
  end
end
return {'DONE'}
