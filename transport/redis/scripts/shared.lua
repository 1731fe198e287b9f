-- What all scripts have: ARGV[1] is what the names of keys begin with.
local prefix = ARGV[1]
local group = 'cqrsync'

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function key(kind, name) return prefix .. kind .. ':' .. name end

-- A message is in nobody's hands and was in none (fresh), or in a consumer's (pending in the group),
-- or was given back (its padded id is in returned). Given back ones are not pending.

-- padded ids sort as texts as ids do in a stream.
local function padded(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  return string.rep('0', 16 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
end

local function plain(text)
  local ms, seq = text:match('^0*(%d+)-0*(%d+)$')
  return ms .. '-' .. seq
end

-- drop_all drops messages, as many at a time as a command takes.
local function drop_all(queue, ids)
  for first = 1, #ids, 1000 do
    local some, texts = {}, {}
    for i = first, math.min(first + 999, #ids) do
      some[#some + 1], texts[#texts + 1] = ids[i], padded(ids[i])
    end
    redis.call('XACK', key('messages', queue), group, unpack(some))
    redis.call('XDEL', key('messages', queue), unpack(some))
    redis.call('ZREM', key('returned', queue), unpack(texts))
    redis.call('ZREM', key('expiring', queue), unpack(some))
  end
end

local function drop(queue, id) drop_all(queue, {id}) end

-- arguments lists those from first to last.
local function arguments(first, last)
  local list = {}
  for i = first, last do list[#list + 1] = ARGV[i] end
  return list
end

-- sweep drops what has expired in nobody's hands.
local function sweep(queue, time)
  while true do
    local ids = redis.call('ZRANGEBYSCORE', key('expiring', queue), '-inf', time, 'LIMIT', 0, 1000)
    drop_all(queue, ids)
    if #ids < 1000 then return end
  end
end

local function wake(queue) redis.call('PUBLISH', key('wake', queue), '') end

-- give_back takes a message out of a consumer's hands, if it is in them.
local function give_back(queue, consumer, id)
  local stream = key('messages', queue)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)
  if #pending == 0 or pending[1][2] ~= consumer then return end
  redis.call('XACK', stream, group, id)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then return end
  redis.call('ZADD', key('returned', queue), 0, padded(id))
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'expires' then
      redis.call('ZADD', key('expiring', queue), entry[2][i + 1], id)
    end
  end
end

local function give_all_back(queue, consumer)
  local stream = key('messages', queue)
  while true do
    local pending = redis.call('XPENDING', stream, group, '-', '+', 1000, consumer)
    for _, p in ipairs(pending) do give_back(queue, consumer, p[1]) end
    if #pending < 1000 then break end
  end
  redis.call('ZREM', key('consumers', queue), consumer)
  redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
end

local function waiting(queue)
  local stream = key('messages', queue)
  return redis.call('XLEN', stream) - redis.call('XPENDING', stream, group)[1]
end

local function remove(queue)
  redis.call('DEL', key('queue', queue), key('messages', queue), key('returned', queue),
    key('expiring', queue), key('consumers', queue))
end
