-- Acknowledges messages, and gives back all others that a consumer has. ARGV: prefix, queue,
-- consumer, ids.
local queue = ARGV[2]
if redis.call('EXISTS', key('queue', queue)) == 0 then return 0 end
drop_all(queue, arguments(4, #ARGV))
give_all_back(queue, ARGV[3])
redis.call('HSET', key('queue', queue), 'seen', string.format('%.0f', now()))
wake(queue)
return 1
