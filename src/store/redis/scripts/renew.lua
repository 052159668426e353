#!lua flags=allow-oom
-- Notes where a replica stands, and tells it what follows. A number alone proves nothing: a standby that was promoted may use
-- the numbers of lost changes again, so the position's hash must be the one in the log. And a head alone proves nothing: the
-- log must end with it. What was acknowledged to the replica must be there, too, also before it has heard of it.
-- KEYS: head, log, members. ARGV: id of the member, what it says of itself, the same at position 0, seq, h, most entries, seq and
-- h of the newest change that was acknowledged to it.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h')
if not head[1] then return {'LOST'} end

local function number_of(entry) return entry and tonumber(string.match(entry[1], '^%d+')) or 0 end
local newest = tonumber(head[2])
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if number_of(last) ~= newest or (last and last[2][2] ~= head[3]) then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
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

local own, acknowledged = standing(tonumber(ARGV[4]), ARGV[5]), tonumber(ARGV[7])
if acknowledged > 0 and standing(acknowledged, ARGV[8]) == 'GONE' then own = 'GONE' end
if own ~= 'AHEAD' then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  return {own, head[1], head[2], head[3]}
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
local entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[4] .. '-0', '+', 'COUNT', ARGV[6])
return {own, head[1], head[2], head[3], entries}
