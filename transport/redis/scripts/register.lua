-- Notes the database behind a queue, and returns the one before. ARGV: prefix, queue, database.
local note = key('database', ARGV[2])
local before = redis.call('GET', note)
redis.call('SET', note, ARGV[3])
return before or ''
