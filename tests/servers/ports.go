package servers

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// firstPort and lastPort bound where no outgoing connection has its end: Linux gives those 32768
// and more. A server that is stopped and started again finds its port free there.
const firstPort, lastPort = 20_000, 32_000

// OwnPort is a TCP port that nobody listens on, and that is nobody's while its server is away.
func OwnPort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp",
			fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			require.NoError(t, listener.Close())
			return port
		}
	}
	require.FailNow(t, "no port is free")
	return 0
}
