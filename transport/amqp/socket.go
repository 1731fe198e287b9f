package amqp

import (
	"net"
	"sync"
	"time"
)

// maxGathered bounds what a socket holds back: a few packets of the loopback interface, many of any
// other.
const maxGathered = 64 << 10

// socket gives every write a deadline: a broker under a resource alarm stops reading, and a cut
// cable swallows.
//
// amqp091 writes to it once per message. While a batch goes out the socket gathers these writes,
// which costs the machine one system call and the broker one packet for dozens of messages. Whoever
// is about to wait for the broker flushes first.
//
// What is held back has not been sent. So permission to send is asked for where it leaves, and what
// may not leave any more is dropped, and the connection with it: after a part of a frame nothing
// else makes sense to the broker.
type socket struct {
	net.Conn
	timeout time.Duration

	mu        sync.Mutex   // of what follows: amqp091's heartbeats write too
	permitted func() error // why nothing may be sent any more; nil while nothing is held back
	gathered  []byte
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.permitted == nil {
		return len(p), s.write(p)
	}
	s.gathered = append(s.gathered, p...)
	if len(s.gathered) < maxGathered {
		return len(p), nil
	}
	return len(p), s.writeGathered()
}

// gather holds writes back from now on, until release or discard.
func (s *socket) gather(permitted func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.permitted = permitted
}

// flush writes what was held back. After an error the connection is of no more use.
func (s *socket) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeGathered()
}

// release flushes and ends the holding back.
func (s *socket) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.writeGathered()
	s.permitted = nil
	return err
}

// discard drops what was held back, and cuts the connection.
func (s *socket) discard() {
	s.cut() // first: it ends a write that waits for the broker and holds the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gathered, s.permitted = nil, nil
}

// cut closes the connection without sending anything more, neither what is held back here nor what
// the operating system still has: a broker that did not read for a while would read it later, when
// somebody else publishes.
func (s *socket) cut() {
	s.linger(0)
	_ = s.Close()
}

// linger says for how long the operating system goes on sending when the connection is closed, by
// whomever; -1 is as long as it wants.
func (s *socket) linger(seconds int) {
	if tcp, ok := s.Conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(seconds) // or it is closed already
	}
}

func (s *socket) writeGathered() error {
	if len(s.gathered) == 0 {
		return nil
	}
	err := s.permitted()
	if err != nil {
		s.cut()
	} else {
		err = s.write(s.gathered)
	}
	s.gathered = s.gathered[:0]
	if cap(s.gathered) > 4*maxGathered { // of a single large message
		s.gathered = nil
	}
	return err
}

func (s *socket) write(p []byte) error {
	if err := s.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	_, err := s.Conn.Write(p)
	return err
}
