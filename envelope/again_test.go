package envelope

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAgainIsTheMessageWithoutRetriesAndInTime(t *testing.T) {
	expires := time.Date(2026, 11, 30, 18, 0, 0, 123456789, time.FixedZone("", 3600))
	tests := map[string]struct{ body, want string }{
		"as a Django replica gave it up": {
			`{"signal_type":"SAVE","cqrs_id":"shop.order","instance_data":{"id":1,"price":1.10,"f":NaN,"cqrs_revision":0},` +
				`"previous_data":{"a":1},"instance_pk":1,"correlation_id":"c","retries":30,"expires":"2026-11-23T22:16:45+00:00","meta":{"m":1}}`,
			`{"signal_type":"SAVE","cqrs_id":"shop.order","instance_data":{"id":1,"price":1.10,"f":NaN,"cqrs_revision":0},` +
				`"previous_data":{"a":1},"instance_pk":1,"correlation_id":"c","retries":0,"expires":"2026-11-30T17:00:00+00:00","meta":{"m":1}}`,
		},
		"what never expires goes on so": {
			`{"expires": null, "instance_pk": null, "instance_data": {}, "cqrs_id": "a", "signal_type": "DELETE", "tenth": 10}`,
			`{"signal_type":"DELETE","cqrs_id":"a","instance_data":{},"previous_data":null,"instance_pk":null,` +
				`"correlation_id":null,"retries":0,"expires":null,"meta":null}`,
		},
		"of an old master, which did not say": {
			`{"signal_type":"SYNC","cqrs_id":"a","instance_data":[]}`,
			`{"signal_type":"SYNC","cqrs_id":"a","instance_data":[],"previous_data":null,"instance_pk":null,` +
				`"correlation_id":null,"retries":0,"expires":"2026-11-30T17:00:00+00:00","meta":null}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			again, _, err := Again([]byte(test.body), expires)
			require.NoError(t, err)
			require.Equal(t, test.want, string(again))
		})
	}
	_, model, err := Again([]byte(tests["as a Django replica gave it up"].body), expires)
	require.NoError(t, err)
	require.Equal(t, "shop.order", model, "which a Go replica could not have, and a Django one can")
}

func TestAgainRefusesWhatDjangoWouldDieOf(t *testing.T) {
	for body, want := range map[string]string{
		"":                                   "body: empty",
		"{":                                  "body: not JSON",
		"[]":                                 "body: want an object",
		"{\"a\":\"\xff\"}":                   "body: not UTF-8",
		`{"cqrs_id":"a","instance_data":{}}`: "signal_type: missing",
		`{"signal_type":"SAVE","instance_data":{}}`:                "cqrs_id: missing",
		`{"signal_type":"SAVE","cqrs_id":"a"}`:                     "instance_data: missing",
		`{"signal_type":"SAVE","cqrs_id":7,"instance_data":{}}`:    "cqrs_id: want a string",
		`{"signal_type":"SAVE","cqrs_id":"","instance_data":{}}`:   "cqrs_id: empty",
		`{"signal_type":"SAVE","cqrs_id":null,"instance_data":{}}`: "cqrs_id: want a string, got null",
	} {
		_, _, err := Again([]byte(body), time.Now())
		require.ErrorContains(t, err, want, body)
		var decodeError *DecodeError
		require.ErrorAs(t, err, &decodeError)
	}
}
