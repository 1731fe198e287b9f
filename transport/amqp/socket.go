package amqp

import (
	"net"
	"sync"
	"time"
)

// maxGathered bounds what a socket holds back: a few packets of the loopback interface, many of any other.
const maxGathered = 64 << 10

// socket gives every write a deadline: a broker under a resource alarm stops reading, and a cut cable swallows.
//
// amqp091 writes to it once per message. While a batch goes out the socket gathers these writes, which costs the
// machine one system call and the broker one packet for dozens of messages. Whoever is about to wait for the broker
// flushes first.
type socket struct {
	net.Conn
	timeout time.Duration

	mu        sync.Mutex // of what follows: amqp091's heartbeats write too
	gathering bool
	gathered  []byte
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gathering {
		return len(p), s.write(p)
	}
	s.gathered = append(s.gathered, p...)
	if len(s.gathered) < maxGathered {
		return len(p), nil
	}
	return len(p), s.writeGathered()
}

// gather holds writes back from now on, until release.
func (s *socket) gather() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gathering = true
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
	s.gathering = false
	return s.writeGathered()
}

func (s *socket) writeGathered() error {
	if len(s.gathered) == 0 {
		return nil
	}
	err := s.write(s.gathered)
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
