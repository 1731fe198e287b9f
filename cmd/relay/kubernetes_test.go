package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// TestTheManifestsCallCommandsThatExist runs what the containers of examples/kubernetes run, but
// without addresses.
func TestTheManifestsCallCommandsThatExist(t *testing.T) {
	const folder = "../../examples/kubernetes"
	files, err := filepath.Glob(folder + "/*.yaml")
	require.NoError(t, err)
	calls := 0
	for _, file := range files {
		if filepath.Base(file) == "cqrsync.yaml" {
			_, err := manifest.Read(file)
			require.NoError(t, err)
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var document any
		require.NoError(t, yaml.Unmarshal(text, &document))
		for _, args := range argsIn(document) {
			calls++
			for i, arg := range args {
				if arg == "/etc/cqrsync/cqrsync.yaml" {
					args[i] = folder + "/cqrsync.yaml"
				}
			}
			r := invoke(t.Context(), args...)
			require.Equal(t, exit.Usage, r.code, "%s: %s", file, r.stderr)
			require.Contains(t, r.stderr, "CQRSYNC_", "all that is missing are the addresses")
			require.NotContains(t, r.stderr, "not defined")
			require.NotContains(t, r.stderr, "config")
		}
	}
	require.Equal(t, 3, calls)
}

func argsIn(node any) (all [][]string) {
	switch node := node.(type) {
	case map[string]any:
		for name, value := range node {
			list, isList := value.([]any)
			if name != "args" || !isList {
				all = append(all, argsIn(value)...)
				continue
			}
			var args []string
			for _, arg := range list {
				args = append(args, arg.(string))
			}
			all = append(all, args)
		}
	case []any:
		for _, value := range node {
			all = append(all, argsIn(value)...)
		}
	}
	return all
}
