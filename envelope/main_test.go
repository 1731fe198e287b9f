package envelope

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requireRoundTrip checks that m survives being sent.
func requireRoundTrip(t require.TestingT, m *Message) {
	body, err := m.Encode()
	require.NoError(t, err)
	again, err := Decode(body, m.Metadata())
	require.NoError(t, err, "%s", body)
	require.Equal(t, m, again)
}
