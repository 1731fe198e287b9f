-- Returns how many messages of a queue are in nobody's hands, -1 if there is no queue. ARGV: prefix,
-- queue, and of an inbox how long it stays without a reader.
local queue = ARGV[2]
local state = redis.call('HMGET', key('queue', queue), 'inbox', 'seen')
if not state[2] then return -1 end
local time = now()
if state[1] and time - tonumber(state[2]) >= tonumber(ARGV[3]) then
  remove(queue)
  return -1
end
sweep(queue, time)
return waiting(queue)
