-- Returns the first message of a queue from an id on, up to another one, or nothing. ARGV: prefix,
-- queue, from, up to.
if redis.call('EXISTS', key('queue', ARGV[2])) == 0 then
  return redis.error_reply('NOQUEUE the queue was deleted')
end
sweep(ARGV[2], now())
return redis.call('XRANGE', key('messages', ARGV[2]), ARGV[3], ARGV[4], 'COUNT', 1)
