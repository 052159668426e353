#!lua
-- Says that a store is on its way to another format, as one change that touches everything, unless a replica could not write it,
-- or refuses the store. From here on the head counts the replicas, and keeps until when the last one with each grace could go on.
-- KEYS: head, log, members, clock: see lost.lua. ARGV: the format that it must have, the one under way, the number that each replica
-- must be able to write, that of a replica which says none, event, the time after which a lease has ended, and then the ids of
-- replicas that have ended, each with its last beat.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'format', 'missed')
if not head[1] then return {'LOST'} end
if head[5] then return {'MISSED'} end
-- A change on top of a log that was lost would hide the loss.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if (last and tonumber(string.match(last[1], '^%d+')) or 0) ~= tonumber(head[2]) then return {'SHORT'} end
if head[4] ~= ARGV[1] then return {'THERE', head[4], head[1]} end

local function text(number) return string.format('%.0f', number) end
local ended = {}
for at = 7, #ARGV, 2 do ended[ARGV[at]] = ARGV[at + 1] end
local behind, who, refusing, graces, members = {}, {}, {}, {}, redis.call('HGETALL', KEYS[3])
for at = 1, #members, 2 do
  local id = members[at]
  local readable, member = pcall(cjson.decode, members[at + 1])
  if not readable or type(member) ~= 'table' then member = {} end
  local name, beat = (type(member.name) == 'string' and member.name or '') .. ' (' .. id .. ')', text(tonumber(member.beat) or 0)
  if (tonumber(member.format) or tonumber(ARGV[4])) < tonumber(ARGV[3]) and ended[id] ~= beat then
    behind[#behind + 1] = name
    who[#who + 1], who[#who + 2] = id, beat
  end
  if member.state == 'sealed' then refusing[#refusing + 1] = name end
  local grace = tonumber(member.grace_ms) or 0
  if grace > 0 then graces[#graces + 1] = grace end
end
if #refusing > 0 then return {'SEALED', refusing} end
if #behind > 0 then return {'BEHIND', behind, who} end

local number = text(tonumber(head[2]) + 1)
local h = redis.sha1hex(head[1] .. ':' .. head[3] .. ':' .. number .. ':' .. ARGV[5])
redis.call('XADD', KEYS[2], number .. '-0', 'h', h, 'p', ARGV[5])
redis.call('HSET', KEYS[1], 'seq', number, 'h', h, 'format', ARGV[2], 'members', text(#members / 2))
if #graces > 0 then
  local now = tonumber(string.match(redis.call('XADD', KEYS[4], 'MAXLEN', '1', '*', 't', ''), '^%d+'))
  for _, grace in ipairs(graces) do redis.call('HSET', KEYS[1], 'grace:' .. text(grace), text(now + grace + tonumber(ARGV[6]))) end
end
return {'BEGUN', ARGV[1], head[1]}
