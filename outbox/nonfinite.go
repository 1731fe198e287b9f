package outbox

import (
	"database/sql/driver"
	"fmt"
	"math"
	"reflect"
)

// NaNAsNull sends NaN and the infinities of a model's columns as null. Without it they travel as
// Python has them, bare, which django-cqrs reads; replicas whose column does not hold them refuse
// the message. See also Config.NaNAsNull.
func NaNAsNull() Option {
	return func(m *model) error { m.finite = true; return nil }
}

// encodeNonFinite writes a value that has NaN or an infinity in it, for which JSON has no word.
func encodeNonFinite(v reflect.Value, date bool) ([]byte, error) {
	if valuer, is := v.Interface().(driver.Valuer); is { // of pgtype, which also write JSON
		held, err := valuer.Value()
		if _, again := held.(driver.Valuer); err != nil || again {
			return nil, err
		}
		return encodeValue(held, date)
	}
	switch {
	case v.CanFloat():
		return appendNonFinite(nil, v.Float()), nil
	case v.Kind() == reflect.Slice, v.Kind() == reflect.Array:
		parts := make([][]byte, v.Len())
		for i := range parts {
			element := v.Index(i)
			for element.Kind() == reflect.Pointer && !element.IsNil() {
				element = element.Elem()
			}
			var err error
			if parts[i], err = encodeValue(element.Interface(), date); err != nil {
				return nil, within(fmt.Sprint(i), err)
			}
		}
		return jsonArray(parts), nil
	}
	return nil, &ValueError{fmt.Sprintf("there is NaN or an infinity within a %s, and JSON has no "+
		"word for it", v.Type()),
		"write NULL, or a finite number, " + leaveOut}
}

// appendNonFinite writes a number that is not finite as Python does.
func appendNonFinite(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "NaN"...)
	case f > 0:
		return append(b, "Infinity"...)
	default:
		return append(b, "-Infinity"...)
	}
}
