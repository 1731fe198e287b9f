package exit

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// said are the sentences of urfave/cli about flags and variables, and how an operator is told. They
// are no types there.
var said = []struct {
	pattern *regexp.Regexp
	tell    func(part []string) string
}{
	{regexp.MustCompile(`^invalid value "(.*)" for flag -+(\S+): (.*)$`), func(part []string) string {
		return "--" + part[2] + ": " + unreadable(part[1], part[3])
	}},
	{regexp.MustCompile(`^could not parse "(.*)" as \S+ value from environment variable ` +
		`"(\w+)" for flag (\S+): (.*)$`),
		func(part []string) string {
			return "--" + part[3] + " (or " + part[2] + "): " + unreadable(part[1], part[4])
		}},
	{regexp.MustCompile(`^flag provided but not defined: -+(.*)$`), func(part []string) string {
		return "--" + part[1] + ": it is not defined, see --help"
	}},
	{regexp.MustCompile(`^flag needs an argument: (\S+)$`), func(part []string) string {
		return part[1] + ": it needs an argument"
	}},
	{regexp.MustCompile(`^Required flags? "(.*)" not set$`), func(part []string) string {
		return "--" + strings.ReplaceAll(part[1], ", ", ", --") + ": not set, see --help"
	}},
}

// unreadable says what is wanted in place of a value, by the complaint of the Go function that read
// it.
func unreadable(value, complaint string) string {
	want := complaint
	switch {
	case strings.Contains(complaint, "invalid duration"), strings.Contains(complaint,
		"missing unit in duration"),
		strings.Contains(complaint, "unknown unit"):
		want = "want a time such as 30s, 5m or 72h"
	case strings.Contains(complaint, "strconv.ParseInt"), strings.Contains(complaint,
		"strconv.ParseUint"):
		want = "want a whole number"
	case strings.Contains(complaint, "strconv.ParseBool"), complaint == "parse error":
		want = "want true or false"
	}
	return fmt.Sprintf("%q, %s", value, want)
}

// Flags makes a usage error, in the words of an operator, of an error of urfave/cli about flags or
// variables. Any other error, and nil, it returns as it is.
func Flags(err error) error {
	if err == nil || errors.As(err, new(*Error)) || IsUsage(err) {
		return err
	}
	for _, s := range said {
		if part := s.pattern.FindStringSubmatch(err.Error()); part != nil {
			return Wrong(errors.New(s.tell(part)))
		}
	}
	return err
}
