package clusters

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is also every node of a NATS cluster.
func TestMain(m *testing.M) {
	if settings := os.Getenv(natsVariable); settings != "" {
		if err := runNATS(settings); err != nil {
			fmt.Fprintln(os.Stderr, "NATS node:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
