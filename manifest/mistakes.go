package manifest

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// inYAML tells whoever wrote the file what is wrong with it: the yaml package speaks of Go types,
// of which the file has none.
func inYAML(err error) error {
	var several *yaml.TypeError
	if !errors.As(err, &several) {
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if strings.HasSuffix(text, "cannot start any token") {
			text += ": indent with spaces, not with tabs"
		}
		return errors.New(text)
	}
	errs := make([]error, len(several.Errors))
	for i, text := range several.Errors {
		errs[i] = errors.New(mistake(text))
	}
	return errors.Join(errs...)
}

// twoSteps tells whoever describes a way under touch why there is none.
func twoSteps(text []byte) error {
	var file struct {
		Models map[string]struct {
			Touch map[string]yaml.Node `yaml:"touch"`
		} `yaml:"models"`
	}
	_ = yaml.Unmarshal(text, &file) // what is wrong with it was said
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(file.Models)) {
		touch := file.Models[id].Touch
		for _, table := range slices.Sorted(maps.Keys(touch)) {
			if node := touch[table]; node.Kind == yaml.MappingNode {
				errs = append(errs, fmt.Errorf("line %d: touch: %s: rows of a table two steps away do not say "+
					"whose they are: give them a column with the key", node.Line, table))
			}
		}
	}
	return errors.Join(errs...)
}

var (
	unknownKey = regexp.MustCompile(`^(line \d+): field (.*) not found in type (\S+)$`)
	wrongValue = regexp.MustCompile(
		"(?s)^(line \\d+): cannot unmarshal !!(\\w+)(?: `(.*)`)? into (.+)$")
)

// mistake is one of yaml's sentences in the words of the file.
func mistake(text string) string {
	if part := unknownKey.FindStringSubmatch(text); part != nil {
		return fmt.Sprintf("%s: unknown key %q, want one of %s",
			part[1], part[2], strings.Join(keysOf(part[3]), ", "))
	}
	if part := wrongValue.FindStringSubmatch(text); part != nil {
		return fmt.Sprintf("%s: %s, want %s", part[1], foundIn(part[2], part[3]), wantedIn(part[4]))
	}
	return text
}

// foundIn says what stands there.
func foundIn(tag, value string) string {
	switch {
	case tag == "seq":
		return "a list"
	case tag == "map":
		return "keys with values"
	case value == "":
		return "nothing"
	}
	return fmt.Sprintf("%q", value)
}

// wantedIn says what belongs in a place by the Go type that has it.
func wantedIn(typ string) string {
	switch typ {
	case "manifest.Manifest":
		return "the keys " + strings.Join(keysOf(typ), ", ")
	case "manifest.Model":
		return `what the model is, for example "table: orders", below it`
	case "map[string]manifest.Model":
		return `models by their CQRS ids, for example "{order: {table: orders}}"`
	case "map[string]string", "map[string]interface {}":
		return `columns with a value each, for example "{state: status}"`
	case "map[string]manifest.Relation":
		return `names with a table each, for example ` +
			`"{lines: {table: order_lines, key: order_id, many: true}}"`
	case "manifest.Relation":
		return "the keys " + strings.Join(keysOf(typ), ", ")
	case "map[string]manifest.Names":
		return `tables with the columns that hold the key, for example "{lines: order_id}"`
	case "[]string":
		return `a name or a list of names, for example "[id, status]"`
	case "bool":
		return "true or false"
	case "string":
		return "one word"
	}
	return "something else"
}

// keysOf are the keys of a part of the file, by the Go type that has them.
func keysOf(typ string) (keys []string) {
	of := reflect.TypeFor[Model]()
	switch typ {
	case "manifest.Manifest":
		of = reflect.TypeFor[Manifest]()
	case "manifest.Relation":
		of = reflect.TypeFor[Relation]()
	}
	for field := range of.Fields() {
		keys = append(keys, field.Tag.Get("yaml"))
	}
	return keys
}
