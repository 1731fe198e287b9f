package transports_test

import (
	"os"
	"testing"

	"github.com/cqrsync/cqrsync/tests/containers"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	containers.Main(m)
}
