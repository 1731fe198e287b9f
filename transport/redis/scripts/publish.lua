-- Gives a message to all queues that are bound to a topic, at once, and returns to how many.
-- ARGV: prefix, topic, time to live in milliseconds or empty; of inboxes that, how many messages they
-- have, and how long they stay without a reader; then fields and values.
local topic, ttl = ARGV[2], tonumber(ARGV[3])
local inbox_ttl, inbox_most, inbox_stays = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = now()

local function make_room(queue)
  sweep(queue, time)
  local stream = key('messages', queue)
  while waiting(queue) > inbox_most do
    local id
    local returned = redis.call('ZRANGE', key('returned', queue), 0, 0)[1]
    if returned then
      id = plain(returned)
    else
      local info = redis.call('XINFO', 'GROUPS', stream)[1]
      for i = 1, #info, 2 do
        if info[i] == 'last-delivered-id' then
          id = redis.call('XRANGE', stream, '(' .. info[i + 1], '+', 'COUNT', 1)[1][1]
        end
      end
    end
    drop(queue, id)
  end
end

local taken = 0
for _, queue in ipairs(redis.call('SMEMBERS', key('bound', topic))) do
  local inbox = redis.call('HGET', key('queue', queue), 'inbox')
  local there = redis.call('EXISTS', key('queue', queue)) == 1
  if there and inbox then
    local seen = tonumber(redis.call('HGET', key('queue', queue), 'seen'))
    there = time - seen < inbox_stays
  end
  if there then
    local fields = {}
    for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
    local expires = ttl and time + ttl
    if inbox then expires = math.min(expires or math.huge, time + inbox_ttl) end
    if expires then
      fields[#fields + 1] = 'expires'
      fields[#fields + 1] = string.format('%.0f', expires)
    end
    local id = redis.call('XADD', key('messages', queue), '*', unpack(fields))
    if expires then redis.call('ZADD', key('expiring', queue), expires, id) end
    if inbox then make_room(queue) end
    wake(queue)
    taken = taken + 1
  else -- somebody deleted it, or nobody has read it for long
    remove(queue)
    redis.call('SREM', key('bound', topic), queue)
  end
end
return taken
