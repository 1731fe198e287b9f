-- Returns the ids that a consumer has in its hands. ARGV: prefix, queue, consumer.
local ids = {}
if redis.call('EXISTS', key('queue', ARGV[2])) == 1 then
  local pending = redis.call('XPENDING', key('messages', ARGV[2]), group, '-', '+', 100000, ARGV[3])
  for _, p in ipairs(pending) do ids[#ids + 1] = p[1] end
end
return ids
