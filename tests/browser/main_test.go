package browser

import (
	"flag"
	"testing"

	"go.uber.org/goleak"

	_ "github.com/cqrsync/cqrsync/tests/containers"
)

var screenshots = flag.String("screenshots", "", "write screenshots to this folder")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
