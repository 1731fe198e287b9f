// Package crash_test kills with SIGKILL. The writing service, between its statements and right after COMMIT: what it left
// behind is whole, a message for every committed change and none for any other (P1), and replicas become equal to the
// master (P8). Relays, and whoever changes the number of lanes: nothing is lost or out of order (P4, P5). Both sides of a backfill: it
// goes on where it was (P8). Both sides of a verification: it ends equal (P8).
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
	if url := os.Getenv(lanesURL); url != "" {
		setLanes(url, os.Getenv(lanesCount), os.Getenv(lanesStop))
		return
	}
	if url := os.Getenv(fillMasterURL); url != "" {
		runFilling(url, os.Getenv(fillBroker), os.Getenv(fillStop), fillingMaster)
		return
	}
	if url := os.Getenv(fillReplicaURL); url != "" {
		runFilling(url, os.Getenv(fillBroker), os.Getenv(fillStop), fillingReplica)
		return
	}
	if url := os.Getenv(verifyMasterURL); url != "" {
		runFilling(url, os.Getenv(fillBroker), os.Getenv(fillStop), verifyingMaster)
		return
	}
	if url := os.Getenv(verifyReplicaURL); url != "" {
		runFilling(url, os.Getenv(fillBroker), os.Getenv(fillStop), verifyingReplica)
		return
	}
	containers.Main(m)
}
