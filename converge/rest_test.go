package converge

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What the master asks again while the replica rests waits once: else it would answer for hours what
// nobody waits for any more.
func TestAQuestionThatIsAskedAgainWaitsOnce(t *testing.T) {
	v := &verifier{now: time.Now}
	ask := func(model, pass, id string) {
		v.wait(question{kind: kindRanges, about: about{Model: model, Pass: pass, ID: id}})
	}
	for range 3 {
		ask("order", "p1", "0")
		ask("order", "p1", walkID)
		ask("customer", "p9", "0")
	}
	require.Len(t, v.later, 3)
	ask("order", "p2", "0")
	require.Len(t, v.later, 2, "the former pass has ended")
	require.Equal(t, about{Model: "customer", Pass: "p9", ID: "0"}, v.later[0].about)
}
