-- Removes messages from a queue, all if there are no ids, and returns how many. ARGV: prefix, queue,
-- ids.
local queue = ARGV[2]
if redis.call('EXISTS', key('queue', queue)) == 0 then
  return redis.error_reply('NOQUEUE the queue was deleted')
end
if #ARGV > 2 then
  drop_all(queue, arguments(3, #ARGV))
  return #ARGV - 2
end
sweep(queue, now())
local n = 0
while true do
  local some = redis.call('XRANGE', key('messages', queue), '-', '+', 'COUNT', 1000)
  for _, entry in ipairs(some) do drop(queue, entry[1]) end
  n = n + #some
  if #some < 1000 then return n end
end
