package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/socket"
)

// session is a client of a publisher, by which one call publishes at a time. Its producer is
// idempotent: what it sends again after a lost answer is stored once, and in its place.
type session struct {
	config Config
	client *kgo.Client
	dialer *socket.Dialer
	denied chan struct{} // receives when something was held back that may not be sent any more
}

// parcel is a message on its way, and its place in the batch.
type parcel struct {
	index  int
	record *kgo.Record
}

func openSession(ctx context.Context, config Config) (*session, error) {
	ctx, cancel := bounded.Timeout(ctx, config.ConnectTimeout, nil)
	defer cancel()
	s := &session{config: config, denied: make(chan struct{}, 1)}
	s.dialer = socket.NewDialer(ctx, config.ConnectTimeout, config.ConnectTimeout)
	var err error
	s.client, err = config.client("cqrsync-publisher", s.dialer,
		kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil)}),
		kgo.ProducerLinger(0), // a call is a batch, and waits for its answers
		kgo.ProducerBatchMaxBytes(int32(config.MessageBytes)), //nolint:gosec // at most 100 MiB
		kgo.BrokerMaxWriteBytes(200<<20),
		kgo.MaxBufferedRecords(config.Window+1),
		// What has no answer may be given up: then the whole client is.
		kgo.AllowIdempotentProduceCancellation(),
		kgo.UnknownTopicRetries(2))
	if err != nil {
		return nil, err
	}
	if err := s.client.Ping(ctx); err != nil {
		s.Cut()
		return nil, fmt.Errorf("connect: %w", explain(ctx, err))
	}
	s.dialer.Free()
	return s, nil
}

// Cut ends the session without sending anything more: what the client still has would go out after
// what the next owner of a lane sends.
func (s *session) Cut() {
	s.dialer.Cut()
	s.client.Close()
}

// Close ends a session that has nothing under way.
func (s *session) Close() { s.client.Close() }

// Closed implements pool.Session: the client connects again by itself.
func (s *session) Closed() bool { return false }

// find looks for topics, and returns of each nil, or why nothing can be sent there.
func (s *session) find(ctx context.Context, names map[string]bool) (map[string]error, error) {
	ctx, cancel := bounded.Timeout(ctx, s.config.ConnectTimeout, nil)
	defer cancel()
	request := kmsg.NewPtrMetadataRequest()
	for name := range names {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr(name)
		request.Topics = append(request.Topics, topic)
	}
	response, err := request.RequestWith(ctx, s.client)
	if err != nil {
		return nil, explain(ctx, err)
	}
	found := make(map[string]error, len(names))
	for _, topic := range response.Topics {
		if topic.Topic != nil {
			found[*topic.Topic] = refusal(kerr.ErrorForCode(topic.ErrorCode))
		}
	}
	for name, err := range found {
		if errors.Is(err, transport.ErrUnavailable) { // it is there, and has no leader yet
			found[name] = nil
		}
	}
	return found, nil
}

// refusal is what the brokers say against a message.
func refusal(err error) error {
	var answer *kerr.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &answer):
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	case answer.Code == kerr.UnknownTopicOrPartition.Code:
		return fmt.Errorf("%w: %w", transport.ErrUnroutable, err)
	case answer.Code == kerr.MessageTooLarge.Code, answer.Code == kerr.InvalidTopicException.Code,
		answer.Code == kerr.RecordListTooLarge.Code:
		return err // it is the message's own fault
	case denied[answer.Code]:
		return fmt.Errorf("%w: %w", transport.ErrDestination, err)
	case kerr.IsRetriable(answer), temporary[answer.Code], upset[answer.Code]:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: %w", transport.ErrRejected, err)
	}
}

// upset are errors after which another producer may do better.
var upset = codes(
	kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch,
	kerr.InvalidProducerIDMapping, kerr.ProducerFenced, kerr.DuplicateSequenceNumber,
	kerr.UnknownServerError,
)

// answer is what became of a parcel.
type answer struct {
	parcel
	err error
}

// send publishes messages, a window of them unconfirmed at a time, and tells settle what became of
// each. The error says why of some nothing is known.
func (s *session) send(
	ctx context.Context, parcels []parcel, settle func(q parcel, err error),
) error {
	s.dialer.Permit(func() error { return s.permit(ctx) })
	defer s.dialer.Permit(nil)
	f := flight{session: s, answers: make(chan answer, len(parcels)), settle: settle}
	for _, q := range parcels {
		if err := f.await(ctx, s.config.Window-1); err != nil {
			return err
		}
		if err := transport.Ended(ctx); err != nil {
			return err
		}
		f.send(q)
	}
	if err := f.await(ctx, 0); err != nil {
		return err
	}
	// A topic may take less at once than the client thinks, and refuses all of that. Each alone
	// tells which is too large.
	for _, q := range f.large {
		if len(q.record.Value) >= s.config.MessageBytes {
			settle(q, kerr.MessageTooLarge)
			continue
		}
		f.alone = true
		f.send(q)
		if err := f.await(ctx, 0); err != nil {
			return err
		}
	}
	return nil
}

// permit says whether anything may be sent, and has the call end when that is not so.
func (s *session) permit(ctx context.Context) error {
	err := transport.Ended(ctx)
	if err != nil {
		select {
		case s.denied <- struct{}{}:
		default: // the call knows
		}
	}
	return err
}

// flight is the messages of a call that are on their way.
type flight struct {
	*session
	answers chan answer // has room for all
	settle  func(q parcel, err error)
	open    int
	alone   bool     // nothing else is under way
	large   []parcel // refused with others, perhaps because of them
}

func (f *flight) send(q parcel) {
	f.open++
	// The promise outlives the call, and has its own channel.
	answers, record := f.answers, *q.record // the client writes to it
	f.client.Produce(context.Background(), &record, func(_ *kgo.Record, err error) {
		answers <- answer{q, err}
	})
}

// await returns when at most so many messages are unconfirmed.
func (f *flight) await(ctx context.Context, most int) error {
	if f.open <= most {
		return nil
	}
	timer := time.NewTimer(f.config.ConfirmTimeout)
	defer timer.Stop()
	for f.open > most {
		select {
		case a := <-f.answers:
			if err := f.take(a); err != nil {
				return err
			}
			timer.Reset(f.config.ConfirmTimeout)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.denied:
			if err := transport.Ended(ctx); err != nil {
				return err
			}
		case <-timer.C:
			return fmt.Errorf("no confirm within %s", f.config.ConfirmTimeout)
		}
	}
	return nil
}

func (f *flight) take(a answer) error {
	f.open--
	err := refusal(a.err)
	switch {
	case errors.Is(err, transport.ErrUnavailable):
		f.drain()
		return err // nothing behind it would arrive in order
	case errors.Is(err, kerr.MessageTooLarge) && !f.alone:
		f.large = append(f.large, a.parcel)
	default:
		f.settle(a.parcel, err)
	}
	return nil
}

// drain settles what has been confirmed meanwhile.
func (f *flight) drain() {
	for {
		select {
		case a := <-f.answers:
			if a.err == nil {
				f.settle(a.parcel, nil)
			}
		default:
			return
		}
	}
}
