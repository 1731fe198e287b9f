package amqp

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// connect returns both ends of a connection on which little fits into the far end's memory and much
// into the near end's.
func connect(t *testing.T) (near *socket, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).SetWriteBuffer(2<<20))
	accepted, err := listener.Accept()
	require.NoError(t, err)
	near, far = &socket{Conn: conn, timeout: 10 * time.Second}, accepted.(*net.TCPConn)
	require.NoError(t, far.SetReadBuffer(64<<10))
	require.NoError(t, far.SetReadDeadline(time.Now().Add(30*time.Second)))
	t.Cleanup(func() {
		near.cut()
		_ = far.Close()
	})
	return near, far
}

// arrived is what the far end reads until the connection ends, in whichever way.
func arrived(far *net.TCPConn) []byte {
	all, _ := io.ReadAll(far)
	return all
}

var errTooLate = errors.New("too late")

func TestWhatWasHeldBackLeavesOnlyWithPermission(t *testing.T) {
	for name, leave := range map[string]func(*socket) error{
		"flush":      (*socket).flush,
		"release":    (*socket).release,
		"no room":    func(s *socket) error { _, err := s.Write(make([]byte, maxGathered)); return err },
		"discarding": func(s *socket) error { s.discard(); _, err := s.Write([]byte("more")); return err },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := connect(t)
			var permission error
			near.gather(func() error { return permission })
			_, err := near.Write([]byte("sent "))
			require.NoError(t, err)
			require.NoError(t, near.flush())
			_, err = near.Write([]byte("held back"))
			require.NoError(t, err)
			permission = errTooLate
			require.Error(t, leave(near))
			permission = nil // a lease that was won again does not bring back what was dropped
			_, _ = near.Write([]byte("a heartbeat"))
			_ = near.release()
			require.Equal(t, "sent ", string(arrived(far)))
		})
	}
}

// A broker under a resource alarm does not read. What it reads when the alarm is over must not be
// what somebody else has published meanwhile.
func TestACutConnectionSendsNothingThatTheSystemStillHas(t *testing.T) {
	near, far := connect(t)
	sent := 0
	for sent == 0 { // until both ends are full
		require.NoError(t, near.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		n, err := near.Conn.Write(make([]byte, 64<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		sent += n
	}
	near.cut()
	require.Less(t, len(arrived(far)), sent/2)
}
