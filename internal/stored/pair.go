package stored

import (
	"fmt"
	"math/big"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// Pair asks for the rows with the given keys, and says for each key which of them it is: nil for
// none. find returns the rows that the database finds by some keys, at says where in a row its key
// stands.
//
// It is the database that decides whether two keys are one, in the type of its column: 1.5 is 1.50
// in a numeric, and a text that is padded to the width of its column is the one without. A
// comparison in Go would take what is spelled otherwise for another key. Go tells only which row
// answers which key, and where it cannot, the key is asked for alone.
func Pair[T any](
	key []*schema.Field, asked []reflect.Value,
	find func([]reflect.Value) ([]T, error), at func(T) reflect.Value,
) ([]*T, error) {
	paired := make([]*T, len(asked))
	for start := 0; start < len(asked); start += atOnce {
		end := min(start+atOnce, len(asked))
		p := pairing[T]{key: key, asked: asked[start:end], paired: paired[start:end], find: find,
			at: at}
		if err := p.run(); err != nil {
			return nil, err
		}
	}
	return paired, nil
}

// atOnce is how many rows one statement asks for.
const atOnce = 1000

type pairing[T any] struct {
	key    []*schema.Field
	asked  []reflect.Value
	paired []*T
	find   func([]reflect.Value) ([]T, error)
	at     func(T) reflect.Value
}

func (p *pairing[T]) run() error {
	found, err := p.find(p.asked)
	if err != nil {
		return err
	}
	for _, form := range []func([]*schema.Field, reflect.Value) string{Identity, Spelling} {
		if found = p.match(found, form); len(found) == 0 {
			return nil
		}
	}
	for i := range p.asked { // each of the rows that are left answers one of these
		if p.paired[i] != nil {
			continue
		}
		alone, err := p.find(p.asked[i : i+1])
		if err != nil {
			return err
		}
		if len(alone) > 0 {
			p.paired[i] = &alone[0]
		}
	}
	return nil
}

// match pairs what has the same form, and returns the rows that nothing was paired with.
func (p *pairing[T]) match(found []T, form func([]*schema.Field, reflect.Value) string) []T {
	rows := make(map[string][]*T, len(found))
	for i := range found {
		name := form(p.key, p.at(found[i]))
		rows[name] = append(rows[name], &found[i])
	}
	asked := make(map[string][]int, len(p.asked))
	for i, row := range p.asked {
		if p.paired[i] == nil {
			name := form(p.key, row)
			asked[name] = append(asked[name], i)
		}
	}
	used := make(map[string]bool, len(found))
	for name, rows := range rows {
		if len(rows) == 1 && len(asked[name]) == 1 {
			p.paired[asked[name][0]], used[name] = rows[0], true
		}
	}
	var left []T
	for i := range found {
		if !used[form(p.key, p.at(found[i]))] {
			left = append(left, found[i])
		}
	}
	return left
}

// Identity is the same for two rows of equal key, however they were read.
func Identity(key []*schema.Field, row reflect.Value) string { return join(key, row, exactly) }

// Spelling is the same for keys that are spelled differently and mean the same in a type of a
// database: numbers, uuids, padded texts. Two texts that differ in case are two.
func Spelling(key []*schema.Field, row reflect.Value) string { return join(key, row, loosely) }

func join(key []*schema.Field, row reflect.Value, form func(string) string) string {
	var b strings.Builder
	for _, field := range key {
		value := field.Value(row).Interface()
		if t, isTime := value.(time.Time); isTime {
			value = t.UnixMicro()
		}
		b.WriteString(form(fmt.Sprint(value)))
		b.WriteByte(0)
	}
	return b.String()
}

func exactly(text string) string { return text }

var (
	moment  = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:.*)?$`)
	decimal = regexp.MustCompile(`^[-+]?[0-9]{1,80}(\.[0-9]{0,80})?$`)
	uuid    = regexp.MustCompile(`^\{?[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}\}?$`)
)

func loosely(text string) string {
	text = strings.TrimRight(text, " ")
	switch {
	case uuid.MatchString(text):
		return strings.ToLower(strings.NewReplacer("-", "", "{", "", "}", "").Replace(text))
	case decimal.MatchString(text):
		if r, ok := new(big.Rat).SetString(text); ok {
			return r.RatString()
		}
	case moment.MatchString(text):
		if len(text) == len(time.DateOnly) {
			text += " 00:00:00+00:00"
		}
		if t, err := envelope.ParseTime(text); err == nil {
			return envelope.FormatTime(t)
		}
	}
	return text
}

// Unpadded is a row without the spaces at the ends of its key's texts, which a column of a fixed
// width adds; ok is false where there are none.
func Unpadded(key []*schema.Field, row reflect.Value) (unpadded reflect.Value, ok bool) {
	unpadded = reflect.New(row.Type()).Elem()
	for _, field := range key {
		value := field.Value(row)
		field.Value(unpadded).Set(value)
		if value.Kind() != reflect.String {
			continue
		}
		if text := strings.TrimRight(value.String(), " "); text != "" && text != value.String() {
			field.Value(unpadded).SetString(text)
			ok = true
		}
	}
	return unpadded, ok
}

// MayBeRespelled says that a key, in columns of the given kinds, is a text that a number or a time
// in another database may be the same as, spelled otherwise.
func MayBeRespelled(kinds []Kind, key []*schema.Field, row reflect.Value) bool {
	for i, field := range key {
		text := fmt.Sprint(reflect.Indirect(field.Value(row)).Interface())
		if kinds[i] == Text && (moment.MatchString(text) ||
			decimal.MatchString(text) && strings.Contains(text, ".")) {
			return true
		}
	}
	return false
}
