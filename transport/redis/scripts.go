package redis

import (
	_ "embed" // the scripts

	goredis "github.com/redis/go-redis/v9"
)

// What has to happen at once happens in a script: to copy a message into all queues, to give it to
// one consumer alone.
var (
	//go:embed scripts/shared.lua
	shared string
	//go:embed scripts/publish.lua
	publishText string
	//go:embed scripts/exchange.lua
	exchangeText string
	//go:embed scripts/mine.lua
	mineText string
	//go:embed scripts/alive.lua
	aliveText string
	//go:embed scripts/leave.lua
	leaveText string
	//go:embed scripts/bind.lua
	bindText string
	//go:embed scripts/waiting.lua
	waitingText string
	//go:embed scripts/register.lua
	registerText string
	//go:embed scripts/letter.lua
	letterText string
	//go:embed scripts/discard.lua
	discardText string
)

var (
	publishScript  = script(publishText)
	exchangeScript = script(exchangeText)
	mineScript     = script(mineText)
	aliveScript    = script(aliveText)
	leaveScript    = script(leaveText)
	bindScript     = script(bindText)
	waitingScript  = script(waitingText)
	registerScript = script(registerText)
	letterScript   = script(letterText)
	discardScript  = script(discardText)
)

func script(text string) *goredis.Script { return goredis.NewScript(shared + text) }
