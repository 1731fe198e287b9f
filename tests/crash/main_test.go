// Package crash_test kills the writing service with SIGKILL, between its statements and right after COMMIT, and shows
// that what it left behind is whole: a message for every committed change and none for any other (P1), and replicas
// that become equal to the master (P8).
package crash_test

import (
	"os"
	"testing"

	"github.com/cqrsync/cqrsync/tests/containers"
)

// The test binary is also the program that is killed.
func TestMain(m *testing.M) {
	if url := os.Getenv(writerURL); url != "" {
		write(url, os.Getenv(writerStop))
		return
	}
	if url := os.Getenv(relayURL); url != "" {
		runRelay(url, os.Getenv(relayBroker))
		return
	}
	containers.Main(m)
}
