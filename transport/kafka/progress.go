package kafka

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
)

// mostText is below what brokers take as the metadata of an offset (offset.metadata.max.bytes).
const mostText = 4000

// span is some offsets in a row.
type span struct{ from, to int64 } // to is behind the last one

// progress is how far a queue is in a partition: everything below the offset is settled, and so are
// spans above it, which others would get again otherwise.
type progress struct {
	offset  int64
	settled []span
	held    int // in a consumer's hands
}

// text is what stands beside the offset in the group: how many messages are in hands, and the spans
// as distances from the offset. What there is no room for is given out again.
func (p progress) text() string {
	if p.held == 0 && len(p.settled) == 0 {
		return ""
	}
	b := []byte(strconv.Itoa(p.held))
	for _, s := range p.settled {
		next := append([]byte{';'}, strconv.FormatInt(s.from-p.offset, 10)...)
		next = append(append(next, '-'), strconv.FormatInt(s.to-p.offset, 10)...)
		if len(b)+len(next) > mostText {
			break
		}
		b = append(b, next...)
	}
	return string(b)
}

// readProgress reads an offset and its text. Whatever somebody else wrote there is nothing.
func readProgress(offset int64, text string) progress {
	p := progress{offset: offset}
	head, rest, _ := strings.Cut(text, ";")
	held, err := strconv.Atoi(head)
	if err != nil || held < 0 {
		return p
	}
	var settled []span
	for one := range strings.SplitSeq(rest, ";") {
		from, to, found := strings.Cut(one, "-")
		a, err := strconv.ParseInt(from, 10, 64)
		z, err2 := strconv.ParseInt(to, 10, 64)
		if rest != "" && (!found || err != nil || err2 != nil || a <= 0 || z <= a) {
			return p
		}
		if rest != "" {
			settled = append(settled, span{offset + a, offset + z})
		}
	}
	slices.SortFunc(settled, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	p.held, p.settled = held, settled
	return p
}

// has says that an offset is settled.
func (p progress) has(offset int64) bool {
	if offset < p.offset {
		return true
	}
	i, _ := slices.BinarySearchFunc(p.settled, offset, func(s span, at int64) int {
		if s.to <= at {
			return -1
		}
		if s.from > at {
			return 1
		}
		return 0
	})
	return i < len(p.settled) && p.settled[i].from <= offset
}

// waiting returns about how many messages of a partition that ends somewhere are in nobody's hands.
func (p progress) waiting(end int64) int64 {
	n := end - p.offset - int64(p.held)
	for _, s := range p.settled {
		n -= s.to - s.from
	}
	return max(0, n)
}

// progressOf returns how far a queue is that is bound from an offset on.
func progressOf(
	committed kadm.OffsetResponses, topic string, partition int32, bound int64,
) progress {
	o, found := committed.Lookup(topic, partition)
	if !found || o.Err != nil || o.At < bound {
		return progress{offset: bound}
	}
	return readProgress(o.At, o.Metadata)
}
