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

// clustersVariable says that there is room and time for clusters.
const clustersVariable = "CQRSYNC_TEST_CLUSTERS"

func asked(t *testing.T) {
	t.Helper()
	if os.Getenv(clustersVariable) == "" {
		t.Skipf("takes two minutes of a machine that has nothing else to do: set %s=1", clustersVariable)
	}
}
