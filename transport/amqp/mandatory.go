package amqp

// routes says which messages of a session are published as mandatory, that is, come back when no
// queue takes them. Any other that no queue takes is confirmed, and gone without a trace.
//
// Where routes are required, all are. Where returns are only counted, those are whose destination
// is not known to have a queue, and the first of every call, which finds out when it has none any
// more. All of them would cost a tenth of a classic queue's speed: it tells the channel of each,
// which nothing has read since RabbitMQ 3.8 (rabbit_amqqueue_process, send_mandatory). A quorum
// queue does not.
type routes struct {
	required bool
	known    map[route]bool // took the last message that was mandatory
	asked    map[route]bool // in this call
}

type route struct{ exchange, key string }

func newRoutes(required bool) routes {
	return routes{required: required, known: map[route]bool{}, asked: map[route]bool{}}
}

// begin a call.
func (r routes) begin() { clear(r.asked) }

// mandatory says how the next message to a destination is published.
func (r routes) mandatory(to route) bool {
	if r.required || !r.known[to] || !r.asked[to] {
		r.asked[to] = true
		return true
	}
	return false
}

// learn what became of a message that was mandatory.
func (r routes) learn(to route, returned bool) { r.known[to] = !returned }
