-- Binds a queue to topics, and returns 0 where it is not there and may not be made. ARGV: prefix,
-- queue, 1 if it may be made, 1 if it is an inbox, topics.
local queue = ARGV[2]
if redis.call('EXISTS', key('queue', queue)) == 0 then
  if ARGV[3] ~= '1' then return 0 end
  remove(queue) -- what a deleted one left
  redis.call('HSET', key('queue', queue), 'seen', string.format('%.0f', now()))
  if ARGV[4] == '1' then redis.call('HSET', key('queue', queue), 'inbox', 1) end
  redis.call('XGROUP', 'CREATE', key('messages', queue), group, '$', 'MKSTREAM')
end
for i = 5, #ARGV do redis.call('SADD', key('bound', ARGV[i]), queue) end
return 1
