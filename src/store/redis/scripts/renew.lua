-- Notes where a replica stands, and tells it what follows. A number alone proves nothing: a standby that was promoted may use
-- the numbers of lost changes again, so the position's hash must be the one in the log. And a head alone proves nothing: the
-- log must end with it. What was acknowledged to the replica must be there, too, also before it has heard of it.
-- KEYS: head, log, members, clock. ARGV: id of the member, what it says of itself, the same at position 0, seq, h, most entries, seq and
-- h of the newest change that was acknowledged to it, the lineage of seq and h, the lineage that it refuses for good or nothing,
-- its grace in milliseconds, the time after which a lease has ended.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'format', 'members', 'missed')
if not head[1] then return {'LOST'} end
-- What came with the third format.
local has_three = tonumber(head[4]) >= 3

-- The head counts the members, so that a list which was lost is noticed: by the next one that finds itself not on it, or that asks for
-- the list.
local function note(said)
  local before = has_three and not head[5] and redis.call('HLEN', KEYS[3])
  local is_new = redis.call('HSET', KEYS[3], ARGV[1], said)
  if before then
    redis.call('HSET', KEYS[1], 'members', before + is_new)
  elseif has_three and is_new == 1 then
    unlisted(KEYS[1], KEYS[3], redis.call('HINCRBY', KEYS[1], 'members', 1))
  end
end

local function number_of(entry) return entry and tonumber(string.match(entry[1], '^%d+')) or 0 end
local newest = tonumber(head[2])
-- Where the replica stands and what follows, in one look; and so the end of the log, unless that is further away.
local most = tonumber(ARGV[6])
local entries = redis.call('XRANGE', KEYS[2], ARGV[4] .. '-0', '+', 'COUNT', most + 1)
local is_all = #entries > 0 and #entries <= most
local last = is_all and entries[#entries] or redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if number_of(last) ~= newest or (last and last[2][2] ~= head[3]) then
  note(ARGV[3])
  return {'SHORT', head[1], head[2], head[3], string.format('%.0f', number_of(last))}
end

local function standing(seq, h)
  local found = head[3]
  if seq ~= newest then
    local id = string.format('%.0f-0', seq)
    local entry = seq > 0 and redis.call('XRANGE', KEYS[2], id, id)[1]
    found = entry and entry[2][2]
  end
  if found == h then return 'AHEAD' end
  local is_trimmed = seq < number_of(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1])
  return is_trimmed and 'RESYNC' or 'GONE'
end

local own, known, h = standing(tonumber(ARGV[4]), ARGV[5]), ARGV[4], ARGV[5]
if tonumber(ARGV[7]) > 0 and standing(tonumber(ARGV[7]), ARGV[8]) == 'GONE' then own, known, h = 'GONE', ARGV[7], ARGV[8] end

-- One that misses something says so to all: who lags cannot notice it.
local missed = head[6]
if has_three and ARGV[10] == head[1] and (own == 'GONE' or ARGV[9] ~= head[1]) then
  missed = ARGV[9] .. ' ' .. known .. ' ' .. h
  redis.call('HSET', KEYS[1], 'missed', missed)
end
if missed then
  local lineage, seq, chain = string.match(missed, '^(%S+) (%d+) (%S*)$')
  if lineage == head[1] and standing(tonumber(seq), chain) ~= 'GONE' then
    redis.call('HDEL', KEYS[1], 'missed')
  elseif own ~= 'GONE' then
    note(ARGV[3])
    return {'MISSED', head[1], head[2], head[3], seq}
  end
end

if own ~= 'AHEAD' then
  note(ARGV[3])
  return {own, head[1], head[2], head[3]}
end
note(ARGV[2])
-- Until when the last one with this grace may go on without the store.
if has_three and ARGV[11] ~= '0' then
  redis.call('HSET', KEYS[1], 'grace:' .. ARGV[11], text(time(KEYS[4]) + tonumber(ARGV[11]) + tonumber(ARGV[12])))
end
if number_of(entries[1]) == tonumber(ARGV[4]) then table.remove(entries, 1) end
entries[most + 1] = nil
return {own, head[1], head[2], head[3], entries}
