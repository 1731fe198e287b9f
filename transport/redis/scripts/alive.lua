-- Says that a consumer lives, unless it was given up. ARGV: prefix, queue, consumer.
local time = now()
if redis.call('EXISTS', key('queue', ARGV[2])) == 1 then
  redis.call('ZADD', key('consumers', ARGV[2]), 'XX', time, ARGV[3])
  redis.call('HSET', key('queue', ARGV[2]), 'seen', string.format('%.0f', time))
end
return 1
