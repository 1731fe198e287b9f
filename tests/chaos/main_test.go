//go:build unix

package chaos

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is also every process that is tried.
func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		os.Exit(play(text))
	}
	goleak.VerifyTestMain(m)
}
