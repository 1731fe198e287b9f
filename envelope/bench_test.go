package envelope

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func BenchmarkDecode(b *testing.B) {
	for _, g := range golden(b) {
		if g.Name != "save_create_all_types" && g.Name != "save_nan" && g.Name != "delete_int_pk" {
			continue
		}
		b.Run(g.Name, func(b *testing.B) {
			body := []byte(g.Body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(body, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, name := range []string{"save_create_all_types", "save_nan", "delete_int_pk"} {
		b.Run(name, func(b *testing.B) {
			m := goldenNamed(b, name)
			body, err := m.Encode()
			require.NoError(b, err)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Encode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStamp(b *testing.B) {
	m := goldenNamed(b, "save_create_all_types")
	at := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		Stamp(m.Data, 3, at)
	}
}

func BenchmarkFields(b *testing.B) {
	m := goldenNamed(b, "save_create_all_types")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Fields(); err != nil {
			b.Fatal(err)
		}
	}
}
