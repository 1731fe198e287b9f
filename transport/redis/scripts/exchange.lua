-- Settles messages of a consumer, and gives it others. ARGV: prefix, queue, consumer, lease in
-- milliseconds, room, how many ids are acknowledged, their ids, those of returned ones.
local queue, consumer, lease, room = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('EXISTS', key('queue', queue)) == 0 then
  return redis.error_reply('NOQUEUE the queue was deleted')
end
local stream, time = key('messages', queue), now()
redis.call('ZADD', key('consumers', queue), time, consumer)
redis.call('HSET', key('queue', queue), 'seen', string.format('%.0f', time))
local acked = tonumber(ARGV[6])
drop_all(queue, arguments(7, 6 + acked))
for i = 7 + acked, #ARGV do give_back(queue, consumer, ARGV[i]) end
if #ARGV > 6 + acked then wake(queue) end

local dead = redis.call('ZRANGEBYSCORE', key('consumers', queue), '-inf', time - lease)
for _, other in ipairs(dead) do give_all_back(queue, other) end
sweep(queue, time)

local taken, ids = {}, {}
local function take(entry)
  taken[#taken + 1], ids[#ids + 1] = entry, entry[1]
end
if room > 0 then
  for _, text in ipairs(redis.call('ZRANGE', key('returned', queue), 0, room - 1)) do
    redis.call('ZREM', key('returned', queue), text)
    local entry = redis.call('XCLAIM', stream, group, consumer, 0, plain(text), 'FORCE')[1]
    if entry then take(entry) end
  end
end
if #taken < room then
  local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', room - #taken,
    'STREAMS', stream, '>')
  if read then
    for _, entry in ipairs(read[1][2]) do take(entry) end
  end
end
for first = 1, #ids, 1000 do
  redis.call('ZREM', key('expiring', queue), unpack(ids, first, math.min(first + 999, #ids)))
end
return taken
