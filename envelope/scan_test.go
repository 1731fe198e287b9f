package envelope

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryByteOfAStringIsLookedAt(t *testing.T) {
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				text := []byte(`"` + strings.Repeat("a", length) + `"`)
				text[1+at] = byte(c)
				s := scanner{src: text}
				_, err := s.whole()
				require.Equal(t, json.Valid(text), err == nil, "%q", text)
			}
		}
	}
}
