package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The rows of the README's table are requests that change nothing.
func TestTheReadmeRefusesWithJSON(t *testing.T) {
	t.Parallel()
	refusals := 0
	for _, step := range readTranscript(t, "README.md").steps {
		if step.status != "" {
			refusals++
			var answer struct{ Errors []string }
			require.NoError(t, json.Unmarshal([]byte(step.answer), &answer), step.command)
			require.NotEmpty(t, answer.Errors, step.command)
			require.NotContains(t, fmt.Sprint(answer.Errors), "Go ", step.command)
		}
	}
	require.Greater(t, refusals, 20)
}

var route = regexp.MustCompile(`routes\.Handle\("(\w+) ([^"]+)"`)

func TestTheReadmeUsesEveryRoute(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	number := regexp.MustCompile(`/\d+`)
	for _, step := range readTranscript(t, "README.md").steps {
		if args := words(t, step.command); args[0] == "curl" {
			method, url, _ := parseCurl(args[1:])
			address, path, _ := strings.Cut(strings.Split(url, "?")[0], "/")
			used[address+" "+method+" "+number.ReplaceAllString("/"+path, "/{id}")] = true
		}
	}
	for service, port := range map[string]string{"orders": "8081", "webhooks": "8082", "stats": "8083"} {
		source, err := os.ReadFile(service + "/service.go")
		require.NoError(t, err)
		routes := route.FindAllStringSubmatch(string(source), -1)
		require.NotEmpty(t, routes)
		for _, one := range routes {
			require.Contains(t, used, "127.0.0.1:"+port+" "+one[1]+" "+one[2])
		}
	}
}
