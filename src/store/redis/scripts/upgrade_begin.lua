#!lua
-- Says that a store is on its way to another format, as one change that touches everything, unless a replica could not write it,
-- or refuses the store.
-- KEYS: head, log, members. ARGV: the format that it must have, the one under way, the number that each replica must be able to
-- write, that of a replica which says none, event.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'format', 'missed')
if not head[1] then return {'LOST'} end
if head[5] then return {'MISSED'} end
-- A change on top of a log that was lost would hide the loss.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if (last and tonumber(string.match(last[1], '^%d+')) or 0) ~= tonumber(head[2]) then return {'SHORT'} end
if head[4] ~= ARGV[1] then return {'THERE', head[4], head[1]} end

local behind, refusing, members = {}, {}, redis.call('HGETALL', KEYS[3])
for at = 1, #members, 2 do
  local readable, member = pcall(cjson.decode, members[at + 1])
  if not readable or type(member) ~= 'table' then member = {} end
  local name = (type(member.name) == 'string' and member.name or '') .. ' (' .. members[at] .. ')'
  if (tonumber(member.format) or tonumber(ARGV[4])) < tonumber(ARGV[3]) then behind[#behind + 1] = name end
  if member.state == 'sealed' then refusing[#refusing + 1] = name end
end
if #refusing > 0 then return {'SEALED', refusing} end
if #behind > 0 then return {'BEHIND', behind} end

local number = string.format('%.0f', tonumber(head[2]) + 1)
local h = redis.sha1hex(head[1] .. ':' .. head[3] .. ':' .. number .. ':' .. ARGV[5])
redis.call('XADD', KEYS[2], number .. '-0', 'h', h, 'p', ARGV[5])
redis.call('HSET', KEYS[1], 'seq', number, 'h', h, 'format', ARGV[2])
return {'BEGUN', ARGV[1], head[1]}
