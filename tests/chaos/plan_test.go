//go:build unix

package chaos

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// kind is what a fault does.
type kind string

const (
	kill        kind = "kill"            // SIGKILL, and a new process later
	freeze      kind = "freeze"          // SIGSTOP, and SIGCONT after the lease has run out
	cut         kind = "cut"             // every connection of a way, at any byte
	delay       kind = "delay"           // what passes a way
	halfOpen    kind = "half-open"       // nobody on a way hears the other side, nor its end
	mute        kind = "mute"            // what the server answers is lost: confirms, say
	swallow     kind = "swallow-commits" // COMMIT arrives, its answer does not
	drop        kind = "drop-commits"    // COMMIT does not arrive
	restart     kind = "restart"         // a server, cleanly
	crash       kind = "crash"           // a server, with SIGKILL or the like
	leaseTime        = 1500 * time.Millisecond
	shortRound       = 14 * time.Second
	faultEvery       = 600 * time.Millisecond
	longestAway      = 4 * time.Second
)

// fault is one of a plan: what happens to whom, when after the start, and for how long.
type fault struct {
	at, length time.Duration
	kind       kind
	target     string // a role, a way (see ways), or a server
	pick       int    // which process of a role
	n          int    // how many commits, or milliseconds of delay
}

func (f fault) String() string {
	text := fmt.Sprintf("%6.2fs %-15s %s", f.at.Seconds(), f.kind, f.target)
	switch f.kind {
	case kill, freeze:
		text += fmt.Sprintf(" %d for %.2fs", f.pick, f.length.Seconds())
	case delay:
		text += fmt.Sprintf(" by %dms for %.2fs", f.n, f.length.Seconds())
	case swallow, drop:
		text += fmt.Sprintf(" %d", f.n)
	case halfOpen, mute, restart, crash:
		text += fmt.Sprintf(" for %.2fs", f.length.Seconds())
	}
	return text
}

// The ways: who goes there to which server.
const (
	writersToDB     = "writers-db"
	relaysToDB      = "relays-db"
	replicasToDB    = "replicas-db"
	relaysToBroker  = "relays-broker"
	replicaToBroker = "replicas-broker"
)

var ways = []string{writersToDB, relaysToDB, replicasToDB, relaysToBroker, replicaToBroker}

// The servers.
const (
	databaseServer = "database"
	brokerServer   = "broker"
)

// deck is every fault there is once; a plan deals it again and again.
func deck(roles []string) (cards []fault) {
	for _, role := range roles {
		cards = append(cards, fault{kind: kill, target: role}, fault{kind: freeze, target: role})
	}
	for _, way := range ways {
		for _, k := range []kind{cut, delay, halfOpen} {
			cards = append(cards, fault{kind: k, target: way})
		}
	}
	for _, way := range []string{writersToDB, relaysToDB, replicasToDB} {
		cards = append(cards, fault{kind: swallow, target: way}, fault{kind: drop, target: way})
	}
	for _, way := range []string{relaysToBroker, replicaToBroker} {
		cards = append(cards, fault{kind: mute, target: way})
	}
	return cards
}

// drawPlan draws what happens in one round. The same seed, setup, round and length give the same
// plan.
func drawPlan(
	seed uint64, setup string, round int, length time.Duration, roles []string,
) (plan []fault) {
	name := fnv.New64a()
	_, _ = fmt.Fprintf(name, "%s %d", setup, round)
	random := rand.New(rand.NewPCG(seed, name.Sum64()))
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(random.Int64N(int64(high-low))).Round(10*time.Millisecond)
	}
	var cards []fault
	for at := faultEvery; at < length; at += between(faultEvery/2, faultEvery*3/2) {
		if len(cards) == 0 {
			cards = deck(roles)
			random.Shuffle(len(cards), func(i, j int) { cards[i], cards[j] = cards[j], cards[i] })
		}
		f := cards[0]
		cards = cards[1:]
		f.at, f.pick, f.n = at, random.IntN(2), 1+random.IntN(8)
		f.length = between(longestAway/20, longestAway/2)
		switch f.kind {
		case freeze:
			f.length = between(leaseTime+leaseTime/3, longestAway)
		case delay:
			f.n = 10 + random.IntN(190)
		case halfOpen:
			f.length = between(leaseTime/2, longestAway)
		}
		plan = append(plan, f)
	}
	// A server is away for as long as it takes to start: one of each in a round, of either kind,
	// the slower one last.
	for _, f := range []fault{
		{at: length / 6, target: databaseServer}, {at: length * 3 / 4, target: brokerServer},
	} {
		f.at += between(0, length/5)
		f.length = between(50*time.Millisecond, longestAway/4)
		f.kind = []kind{restart, crash}[random.IntN(2)]
		plan = append(plan, f)
	}
	slices.SortStableFunc(plan, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return plan
}

func planText(plan []fault) string {
	var lines []string
	for _, f := range plan {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}
