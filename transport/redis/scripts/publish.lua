-- Gives messages to all queues that are bound to their topics, each message to all of them at once, in
-- their order. It returns of each to how many queues, or why it was refused; a message that is
-- refused holds up no other.
-- ARGV: prefix; of inboxes how long a message lives in milliseconds, how many they have, and how long
-- they stay without a reader; then of each message its topic, its time to live in milliseconds or
-- nothing, how many fields and values follow, and these.
local inbox_ttl, inbox_most, inbox_stays = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
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

local bound = {} -- by topic

-- queues_of lists the queues of a topic. One that somebody deleted, and an inbox that nobody has read
-- for long, are removed.
local function queues_of(topic)
  if bound[topic] then return bound[topic] end
  local queues = {}
  for _, queue in ipairs(redis.call('SMEMBERS', key('bound', topic))) do
    local inbox = redis.call('HGET', key('queue', queue), 'inbox')
    local there = redis.call('EXISTS', key('queue', queue)) == 1
    if there and inbox then
      local seen = tonumber(redis.call('HGET', key('queue', queue), 'seen'))
      there = time - seen < inbox_stays
    end
    if there then
      queues[#queues + 1] = {name = queue, inbox = inbox}
    else
      remove(queue)
      redis.call('SREM', key('bound', topic), queue)
    end
  end
  bound[topic] = queues
  return queues
end

local woken = {}

-- publish gives one message to its queues.
local function publish(topic, ttl, fields)
  local taken = 0
  for _, queue in ipairs(queues_of(topic)) do
    local expires = ttl and time + ttl
    if queue.inbox then expires = math.min(expires or math.huge, time + inbox_ttl) end
    local id
    if expires then
      fields[#fields + 1], fields[#fields + 2] = 'expires', string.format('%.0f', expires)
      id = redis.pcall('XADD', key('messages', queue.name), '*', unpack(fields))
      fields[#fields], fields[#fields - 1] = nil, nil
    else
      id = redis.pcall('XADD', key('messages', queue.name), '*', unpack(fields))
    end
    if type(id) == 'table' then return id.err end
    if expires then redis.call('ZADD', key('expiring', queue.name), expires, id) end
    if queue.inbox then make_room(queue.name) end
    woken[queue.name] = true
    taken = taken + 1
  end
  return taken
end

local results, at = {}, 5
while at <= #ARGV do
  local topic, ttl, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local fields = {}
  for i = 1, count do fields[i] = ARGV[at + 2 + i] end
  results[#results + 1] = publish(topic, ttl, fields)
  at = at + 3 + count
end
for queue in pairs(woken) do wake(queue) end
return results
