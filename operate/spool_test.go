package operate

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASpoolReturnsWhatItWasGivenAndLeavesNoFile(t *testing.T) {
	for _, lines := range []int{0, 3, 300} {
		folder := t.TempDir()
		t.Setenv("TMPDIR", folder)
		var s spool
		var want strings.Builder
		for range lines {
			line := strings.Repeat("k", 100_000)
			require.NoError(t, s.add([]byte(line)))
			want.WriteString(line + "\n")
		}
		require.LessOrEqual(t, s.memory.Len(), spoolBytes)
		r, err := s.reader()
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, want.Len(), len(got))
		require.True(t, want.String() == string(got))
		require.NoError(t, s.close())
		left, err := os.ReadDir(folder)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}
