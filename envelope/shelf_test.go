package envelope

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestWhatWasShelvedIsJSONAndComesBack(t *testing.T) {
	for object, want := range map[string]string{
		`{"id":1,"a":NaN,"b":[1,-Infinity,"NaN"]}`: `{"cqrs_nonfinite":{"a":"NaN","b":"[1,-Infinity,\"NaN\"]"},"id":1,"a":null,"b":[1,null,"NaN"]}`,
		`{"id":1,"a":"NaN, Infinity"}`:             `{"id":1,"a":"NaN, Infinity"}`,
		`{"a":NaN,"a":1}`:                          `{"a":null,"a":1}`,
		`{"\"":Infinity}`:                          `{"cqrs_nonfinite":{"\"":"Infinity"},"\"":null}`,
	} {
		stored, err := Shelve(json.RawMessage(object))
		require.NoError(t, err)
		require.Equal(t, want, string(stored))
		require.True(t, json.Valid(stored))
		again, err := Restored(stored)
		require.NoError(t, err)
		if object != `{"a":NaN,"a":1}` {
			require.Equal(t, object, string(again))
		}
	}
	_, err := Shelve(json.RawMessage(`{"a":NaN`))
	require.ErrorContains(t, err, "not JSON")
	_, _, err = Unshelve(json.RawMessage(`{"cqrs_nonfinite":{"a":1},"a":null}`))
	require.ErrorContains(t, err, "cqrs_nonfinite")
	_, _, err = Unshelve(json.RawMessage(`{"cqrs_nonfinite":{}}`))
	require.ErrorContains(t, err, "cqrs_nonfinite: byte")
}

func TestShelvedObjectsAreStampedAsAnyOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := anyMessage(t)
		body, err := m.Encode()
		require.NoError(t, err)
		var wire struct {
			Data json.RawMessage `json:"instance_data"`
		}
		require.NoError(t, json.Unmarshal(Quoted(body), &wire), "whoever reads JSON can read it")
		restored, err := m.NonFinite.in(m.Data)
		require.NoError(t, err)
		stored, err := Shelve(restored)
		require.NoError(t, err)
		require.True(t, json.Valid(stored))
		data, odd, err := Unshelve(stored)
		require.NoError(t, err)
		require.Equal(t, string(m.Data), string(data))
		require.Equal(t, m.NonFinite, odd)
	})
}

func TestValuesCanBeReadWithoutTheTokens(t *testing.T) {
	value := json.RawMessage(`[NaN, "Infinity", {"x": -Infinity}]`)
	require.Equal(t, `[null,"Infinity",{"x":null}]`, string(Finite(value)))
	require.Equal(t, `["NaN","Infinity",{"x":"-Infinity"}]`, string(Quoted(value)))
	require.Equal(t, `{"a": "NaN"}`, string(Finite(json.RawMessage(`{"a": "NaN"}`))), "JSON without them is not touched")
	require.Equal(t, `NaN x`, string(Quoted(json.RawMessage(`NaN x`))), "nor what is none")
	require.True(t, IsNonFinite([]byte("-Infinity")))
	require.False(t, IsNonFinite([]byte(`"NaN"`)))
}
