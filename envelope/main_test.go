package envelope

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requireSame is require.Equal for messages, with NaN equal to itself.
func requireSame(t require.TestingT, want, got *Message) {
	require.Len(t, got.NonFinite, len(want.NonFinite))
	for name, f := range want.NonFinite {
		require.Contains(t, got.NonFinite, name)
		require.True(t, f == got.NonFinite[name] || math.IsNaN(f) && math.IsNaN(got.NonFinite[name]), name)
	}
	a, b := *want, *got
	if a.NonFinite != nil && b.NonFinite != nil {
		a.NonFinite, b.NonFinite = nil, nil
	}
	require.Equal(t, a, b)
}

// requireRoundTrip checks that m survives being sent.
func requireRoundTrip(t require.TestingT, m *Message) {
	body, err := m.Encode()
	require.NoError(t, err)
	again, err := Decode(body, m.Metadata())
	require.NoError(t, err, "%s", body)
	requireSame(t, m, again)
}
