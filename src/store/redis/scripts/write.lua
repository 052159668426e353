#!lua
-- Writes a batch and its entry in the log, both or neither. Every check comes before the first write: Lua takes nothing back.
-- Runs in full memory, too, if the batch ends something (`allow-oom`, see scripts.rs).
-- KEYS: head, log, audit log. ARGV: the lineage and the format that the batch was judged by, what to do (`write` or `check`),
-- most entries of the log, event, and then what must be as it was when the batch was judged, and then what to write.
local HEAD, LOG, AUDIT = KEYS[1], KEYS[2], KEYS[3]
local head = redis.call('HMGET', HEAD, 'id', 'seq', 'h', 'format', 'missed')
local id, seq, h = head[1], tonumber(head[2]), head[3]
if not id then return {'LOST'} end
if id ~= ARGV[1] or head[4] ~= ARGV[2] then return {'STALE'} end
if head[5] then return {'MISSED'} end

local at = 6
while at <= #ARGV do
  local what, key, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if what == 'IS' then
    if redis.call('GET', key) ~= value then return {'STALE'} end
    at = at + 3
  elseif what == 'NONE' then
    if redis.call('EXISTS', key) == 1 then return {'STALE'} end
    at = at + 2
  elseif what == 'COUNT' then
    if redis.call('ZCARD', key) ~= tonumber(value) then return {'STALE'} end
    at = at + 3
  elseif what == 'MOST' then -- which one, how many, the lists that count together
    local count, lists = 0, tonumber(ARGV[at + 3])
    for n = at + 4, at + 3 + lists do count = count + redis.call('ZCARD', ARGV[n]) end
    if count >= tonumber(value) then return {'OVER', key} end
    at = at + 4 + lists
  else
    break
  end
end
if ARGV[3] == 'check' then return {'DONE', id, head[2]} end

local function last(stream)
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return entry and tonumber(string.match(entry[1], '^%d+')) or 0
end
if last(LOG) ~= seq then return {'DAMAGED', 'its log does not end where its head says: see `tollgate store accept`'} end
local rows = last(AUDIT)
local function id_of(number) return string.format('%.0f-0', number) end

-- The log comes first: should something that is not ours stand in the place of a record and end this script, everybody has
-- been told to look again.
local number = string.format('%.0f', seq + 1)
h = redis.sha1hex(id .. ':' .. h .. ':' .. number .. ':' .. ARGV[5])
redis.call('XADD', LOG, 'MAXLEN', '~', ARGV[4], number .. '-0', 'h', h, 'p', ARGV[5])
redis.call('HSET', HEAD, 'seq', number, 'h', h)

while at <= #ARGV do
  local what, key, value = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if what == 'SET' then
    redis.call('SET', key, value)
    at = at + 3
  elseif what == 'KEEP' then
    redis.call('SET', key, value, 'PX', ARGV[at + 3])
    at = at + 4
  elseif what == 'AGAIN' then
    redis.call('SET', key, value, 'KEEPTTL')
    at = at + 3
  elseif what == 'DEL' then
    redis.call('DEL', key)
    at = at + 2
  elseif what == 'LIST' then
    redis.call('ZADD', key, 0, value)
    at = at + 3
  elseif what == 'UNLIST' then
    redis.call('ZREM', key, value)
    at = at + 3
  else -- ROW: on how many lists, the row, the lists
    rows = rows + 1
    redis.call('XADD', AUDIT, id_of(rows), 'p', value)
    for n = 1, tonumber(key) do redis.call('ZADD', ARGV[at + 2 + n], rows, string.format('%.0f', rows)) end
    at = at + 3 + tonumber(key)
  end
end

return {'DONE', id, number, h}
