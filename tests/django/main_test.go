//go:build unix

package django

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/containers"
)

func TestMain(m *testing.M) { containers.Main(m) }

// python is the interpreter that has Django.
func python(t *testing.T) string {
	t.Helper()
	path, err := environment()
	if err != nil {
		dbtest.Missing(t, "django", "an environment with tests/django/requirements.txt: "+err.Error())
	}
	return path
}

var environment = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var problem strings.Builder
	cmd := exec.CommandContext(ctx, "./venv")
	cmd.Stderr = &problem
	path, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, problem.String())
	}
	return strings.TrimSpace(string(path)), nil
})

// program builds a command and returns its path.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	output, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, pkg).CombinedOutput()
	require.NoError(t, err, "%s", output)
	return path
}
