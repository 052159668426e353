#!lua flags=allow-oom
-- What a store is judged by, of one moment. Not marked as one that only reads: see read.lua.
-- KEYS: head, log, members.
local head = redis.call('HMGET', KEYS[1], 'id', 'seq', 'h', 'format', 'missed', 'members')
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local last, h = '0', ''
if newest then
  last = string.match(newest[1], '^%d+')
  for at = 1, #newest[2], 2 do
    if newest[2][at] == 'h' then h = newest[2][at + 1] end
  end
end
return {
  'DONE', head[1] or '', head[2] or '0', head[3] or '', head[4] or '0', last, h,
  string.format('%.0f', redis.call('HLEN', KEYS[3])), head[6] or '0', head[5] and string.match(head[5], '^%S+ (%d+) ') or '0',
}
